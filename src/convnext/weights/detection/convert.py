"""Writing a detector in another layout."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from convnext.weights.atomic import weights_writer, write_atomically
from convnext.weights.checkpoint import SECTION
from convnext.weights.detection.architecture import detector_name
from convnext.weights.detection.checkpoint import DetectorCard, DetectorCheckpoint
from convnext.weights.detection.layout import from_detector
from convnext.weights.detection.saving import detector_files, published_names

__all__ = ["write_detector"]


def write_detector(checkpoint: DetectorCheckpoint, target: Path, layout: str) -> None:
    """Write a detector's weights; the numbers stay bit for bit the same.

    Args:
        checkpoint: what was read.
        target: a file ``.safetensors``, ``.pth``, ``.pt`` or ``.bin``, or a folder.
        layout: one of `DETECTOR_LAYOUTS`.

    Raises:
        ValueError: the layout cannot express the body, or is none of a folder.
        OSError: it cannot be written; nothing half-written is left.
    """
    card = _card(checkpoint)
    if target.suffix == "" or target.is_dir():
        if layout != "convnext":
            raise ValueError(
                f"{target}: a detector in the layout {layout} is written to a file (.pth or "
                ".safetensors); folders are for convnext"
            )
        state = published_names(checkpoint.state, checkpoint.body)
        write_atomically(detector_files(target, state, card))
        return
    state = from_detector(checkpoint.state, layout, checkpoint.body)
    metadata = {"format": "pt", SECTION: json.dumps(card.to_dict())}
    content: dict[str, Any] = dict(state)
    if layout in ("official", "openmmlab"):
        content = {"meta": _meta(card, layout), "state_dict": state}
    write_atomically({target: weights_writer(target, state, metadata, content)})


def _meta(card: DetectorCard, layout: str) -> dict[str, Any]:
    """What readers of such files look for beside the weights: the names of the classes."""
    if card.labels is None:
        return {}
    labels = list(card.labels)
    return {"CLASSES": labels} if layout == "official" else {"dataset_meta": {"classes": labels}}


def _card(checkpoint: DetectorCheckpoint) -> DetectorCard:
    config = {k: v for k, v in vars(checkpoint.config).items() if k != "drop_path_rate"}
    return dataclasses.replace(
        checkpoint.card,
        name=checkpoint.card.name or detector_name(checkpoint.config, checkpoint.body),
        config=config,
        body=checkpoint.body_fields,
    )
