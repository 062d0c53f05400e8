"""save_pretrained: a folder that this package, timm and transformers load with equal logits."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from convnext.models.backbone import Backbone
from convnext.weights.architecture import model_name
from convnext.weights.checkpoint import Card, told_by_tensors
from convnext.weights.folder import write_folder
from convnext.weights.preprocessing import Preprocessing


def save_pretrained(
    model: nn.Module,
    directory: str | Path,
    *,
    labels: Sequence[str] | None = None,
    descriptions: Mapping[str, str] | None = None,
    preprocessing: Preprocessing | None = None,
    name: str | None = None,
    licence: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write a network's weights and what is needed to use them again.

    ``model.safetensors`` and ``config.json`` are loaded by :func:`convnext.load_pretrained`, by
    ``timm.create_model("local-dir:DIRECTORY", pretrained=True)`` and by
    ``transformers.AutoModelForImageClassification.from_pretrained(DIRECTORY)``. timm and
    transformers cannot build isotropic networks, networks with another ``stem_stride`` than 4,
    with another number of stages than 4 or with other kernels than one of 7x7; transformers cannot
    classify without a head. Such folders load in this package only, and the others refuse them.

    Args:
        model: A network of this package; wrappers of DDP and torch.compile are taken off.
        directory: Folder, made if missing. Files of an earlier save are replaced.
        labels: Names of the classes in the order of the outputs.
        descriptions: Longer words for labels.
        preprocessing: What images need; ImageNet's evaluation at 224 px by default.
        name: Name to store; found out from the network's shape by default. A step of the road from
            ResNet that has other fields than the named one needs it.
        licence: Licence of the weights.
        extra: Anything else to keep with the weights, as JSON values (scores, recipe).

    Returns:
        The folder.

    Raises:
        ValueError: The model is no whole network of this package, has no name, or labels or
            preprocessing do not fit it.
        OSError: No space or no permission; nothing half-written is left.
    """
    network: Any = model
    while hasattr(network, "_orig_mod") or isinstance(getattr(network, "module", None), nn.Module):
        network = getattr(network, "_orig_mod", None) or network.module
    if not isinstance(network, Backbone):
        raise ValueError(
            f"save_pretrained writes networks of this package, not {type(network).__name__}"
        )
    config = network.config
    name = name or model_name(config)
    if name is None and not told_by_tensors(config):
        raise ValueError(f"give save_pretrained the name that this {type(network).__name__} had")
    if config.features_only:
        raise ValueError(
            "a features_only network has no norm and head to save; build it without features_only"
        )
    if labels is not None and len(labels) != config.num_classes:
        raise ValueError(f"{len(labels)} labels for a network with {config.num_classes} classes")
    if preprocessing is not None and len(preprocessing.mean) != config.in_chans:
        raise ValueError(
            f"preprocessing has {len(preprocessing.mean)} channels, the network has "
            f"{config.in_chans}; give mean and std one value per channel"
        )
    card = Card(
        name=name,
        labels=None if labels is None else tuple(labels),
        descriptions=dict(descriptions or {}),
        preprocessing=preprocessing,
        licence=licence,
        extra=dict(extra or {}),
    )
    folder = Path(directory).expanduser()
    write_folder(folder, network.state_dict(), config, card)
    return folder
