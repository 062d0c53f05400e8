"""merge_weights: a weights folder of a network's form for deployment."""

from pathlib import Path
from typing import cast

from convnext.models.backbone import Backbone
from convnext.models.large_kernel import merge
from convnext.weights.create import load_pretrained
from convnext.weights.saving import save_pretrained

__all__ = ["merge_weights"]


def merge_weights(source: str | Path, directory: str | Path) -> Path:
    """Fold batch norms and add branches up, and write what comes of it; see `convnext.merge`.

    Args:
        source: Weights of a SLaK or RepLKNet, as :func:`load_pretrained` takes them.
        directory: The folder to write, as by :func:`save_pretrained`.

    Returns:
        The folder.

    Raises:
        ValueError: The network has no branches, or has been merged already.
        OSError: Something cannot be read or written.
    """
    model, info = load_pretrained(source)
    network = cast(Backbone, model)
    merged = merge(network)
    if merged is network:
        raise ValueError(f"{source} has no branches to merge, or is merged already")
    return save_pretrained(
        merged,
        directory,
        labels=info.labels,
        descriptions=info.descriptions,
        preprocessing=info.preprocessing,
        name=info.name,
        licence=info.licence,
        extra=info.extra,
    )
