"""save_detector: a folder with a detector's weights and what is needed to use them again.

``model.safetensors`` has the published names where there are some for the body, else our own;
``config.json`` holds the labels and a section ``convnext`` with everything else.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

import convnext
from convnext.models.backbone import Backbone, BackboneConfig
from convnext.models.mask_rcnn import MaskRCNN
from convnext.weights.atomic import Writer, safetensors_writer, text_writer, write_atomically
from convnext.weights.checkpoint import SECTION
from convnext.weights.detection.architecture import detector_name, stored_detector
from convnext.weights.detection.checkpoint import DetectorCard, DetectorPreprocessing
from convnext.weights.detection.layout import from_detector
from convnext.weights.folder import CONFIG, WEIGHTS
from convnext.weights.layouts.layout import StateDict

__all__ = ["detector_files", "published_names", "save_detector"]


def save_detector(
    model: nn.Module,
    directory: str | Path,
    *,
    labels: Sequence[str] | None = None,
    preprocessing: DetectorPreprocessing | None = None,
    name: str | None = None,
    licence: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write a detector's weights and what is needed to use them again.

    Args:
        model: a `MaskRCNN`; wrappers of DDP and torch.compile are taken off.
        directory: folder, made if missing. Files of an earlier save are replaced.
        labels: names of the classes in the order of the labels.
        preprocessing: what images need.
        name: name to store; found out from the parts by default.
        licence: licence of the weights.
        extra: anything else to keep with the weights, as JSON values (scores, recipe).

    Returns:
        The folder, for `load_detector`.

    Raises:
        ValueError: the model is no detector of this package, or labels or preprocessing do not fit.
        OSError: no space or no permission; nothing half-written is left.
    """
    detector = _bare(model)
    config, body = detector.config, detector.backbone.body
    if labels is not None and len(labels) != config.num_classes:
        raise ValueError(f"{len(labels)} labels for a detector with {config.num_classes} classes")
    if preprocessing is not None and len(preprocessing.mean) != config.in_chans:
        raise ValueError(
            f"preprocessing has {len(preprocessing.mean)} channels, the detector has "
            f"{config.in_chans}; give mean and std one value per channel"
        )
    own = body.config if isinstance(body, Backbone) else None
    stored, body_fields = stored_detector(detector)
    card = DetectorCard(
        name=name or detector_name(config, own),
        config=stored,
        body=body_fields,
        labels=None if labels is None else tuple(labels),
        preprocessing=preprocessing,
        licence=licence,
        extra=dict(extra or {}),
    )
    folder = Path(directory).expanduser()
    write_atomically(detector_files(folder, published_names(detector.state_dict(), own), card))
    return folder


def detector_files(folder: Path, state: StateDict, card: DetectorCard) -> dict[Path, Writer]:
    """What is to be written for a detector, by file.

    Args:
        folder: where.
        state: tensors under any names that `load_detector` knows.
        card: what is stored with them.

    Raises:
        ValueError: `card.extra` cannot be written as JSON.
    """
    section = {"version": convnext.__version__, **card.to_dict()}
    labels = section.pop("labels")
    values: dict[str, Any] = {"architecture": card.name or "detector"}
    if labels is not None:
        values["label_names"] = list(labels)
    try:
        content = {**values, SECTION: section}
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        metadata = {"format": "pt", SECTION: json.dumps({**section, "labels": labels})}
    except (TypeError, ValueError) as error:
        raise ValueError(f"extra cannot be written as JSON: {error}") from error
    return {
        folder / WEIGHTS: safetensors_writer(state, metadata),
        folder / CONFIG: text_writer(text + "\n"),
    }


def published_names(state: StateDict, body: BackboneConfig | None) -> StateDict:
    """The published names where the body has some, else ours."""
    if body is None:
        return from_detector(state, "convnext")
    try:
        return from_detector(state, "official", body)
    except ValueError:
        return from_detector(state, "convnext")


def _bare(model: nn.Module) -> MaskRCNN:
    network: Any = model
    while hasattr(network, "_orig_mod") or isinstance(getattr(network, "module", None), nn.Module):
        network = getattr(network, "_orig_mod", None) or network.module
    if not isinstance(network, MaskRCNN):
        raise ValueError(
            f"save_detector writes detectors of this package, not {type(network).__name__}"
        )
    return network
