"""merge_weights: a weights folder of a network's form for deployment."""

from pathlib import Path
from typing import cast

from convnext.models.backbone import Backbone
from convnext.models.large_kernel import merge
from convnext.weights.checkpoint import open_weights
from convnext.weights.create import load_pretrained
from convnext.weights.saving import save_pretrained
from convnext.weights.sources import resolve
from convnext.weights.systems.kinds import Kind
from convnext.weights.systems.loading import load_system
from convnext.weights.systems.saving import save_system
from convnext.weights.systems.system import system_of

__all__ = ["merge_weights"]


def merge_weights(source: str | Path, directory: str | Path) -> Path:
    """Fold batch norms and add branches up, and write what comes of it; see `convnext.merge`.

    Args:
        source: Weights of a SLaK or RepLKNet, as :func:`load_pretrained` takes them, or of a
            detector or segmentation network on one, as :func:`load_detector` and
            :func:`load_segmenter` do.
        directory: The folder to write, as by :func:`save_pretrained`, :func:`save_detector` or
            :func:`save_segmenter`.

    Returns:
        The folder.

    Raises:
        ValueError: The network has no branches, or has been merged already.
        OSError: Something cannot be read or written.
    """
    path = resolve(source).path
    if kind := open_weights(path).kind:
        return _merge_system(kind, path, directory, source)
    model, info = load_pretrained(source)
    return save_pretrained(
        _merged(cast(Backbone, model), source),
        directory,
        labels=info.labels,
        descriptions=info.descriptions,
        preprocessing=info.preprocessing,
        name=info.name,
        licence=info.licence,
        extra=info.extra,
    )


def _merged(network: Backbone, source: str | Path) -> Backbone:
    merged = merge(network)
    if merged is network:
        raise ValueError(f"{source} has no branches to merge, or is merged already")
    return merged


def _merge_system(kind: Kind, path: Path, directory: str | Path, source: str | Path) -> Path:
    system = system_of(kind)
    model, info = load_system(system, path)
    body = model.backbone.body
    if not isinstance(body, Backbone):
        raise ValueError(f"{source} has no branches to merge, or is merged already")
    whole = system.network(model.config, _merged(body, source))
    tensors = {k: t for k, t in model.state_dict().items() if not k.startswith("backbone.body.")}
    whole.load_state_dict(tensors, strict=False)
    return save_system(
        system,
        whole,
        directory,
        labels=info.labels,
        preprocessing=info.preprocessing,
        name=info.name,
        licence=info.licence,
        extra=info.extra,
    )
