"""Writing a system in another layout."""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

from convnext.models.convnext import ConvNeXtConfig
from convnext.weights.atomic import weights_writer, write_atomically
from convnext.weights.checkpoint import SECTION
from convnext.weights.folder import loads_elsewhere
from convnext.weights.systems.body import system_name
from convnext.weights.systems.card import SystemCard
from convnext.weights.systems.checkpoint import SystemCheckpoint
from convnext.weights.systems.layout import from_system
from convnext.weights.systems.saving import published_names, system_files
from convnext.weights.systems.system import C, M, P, Stored, System

__all__ = ["write_system"]

logger = logging.getLogger(__name__)


def write_system(
    system: System[C, M, P], checkpoint: SystemCheckpoint[C, P], target: Path, layout: str
) -> None:
    """Write a system's weights; the numbers stay bit for bit the same.

    Args:
        system: its kind.
        checkpoint: what was read.
        target: a file ``.safetensors``, ``.pth``, ``.pt`` or ``.bin``, or a folder.
        layout: one of `system.names.layouts`.

    Raises:
        ValueError: the layout cannot express the system, or is none of a folder.
        OSError: it cannot be written; nothing half-written is left.
    """
    card = _card(system, checkpoint)
    if target.suffix == "" or target.is_dir():
        _write_folder(system, checkpoint, card, target, layout)
        return
    system.check_layout(checkpoint.config, layout)
    state = from_system(system, checkpoint.state, layout, checkpoint.body)
    _tell_losses(system, checkpoint, layout)
    metadata = {"format": "pt", SECTION: json.dumps(card.to_dict())}
    content: dict[str, Any] = dict(state)
    if layout in ("official", "openmmlab"):
        content = {"meta": _meta(card, layout), "state_dict": state}
    write_atomically({target: weights_writer(target, state, metadata, content)})


def _write_folder(
    system: System[C, M, P],
    checkpoint: SystemCheckpoint[C, P],
    card: SystemCard[P],
    target: Path,
    layout: str,
) -> None:
    word, body = system.kind.word, checkpoint.body
    if layout == "convnext":
        state = published_names(system, checkpoint.state, body)
        write_atomically(system_files(system, target, state, card))
        return
    if layout not in system.folders:
        raise ValueError(
            f"{target}: a {word} in the layout {layout} is written to a file (.pth or "
            f".safetensors); folders are for {', '.join(('convnext', *system.folders))}"
        )
    system.check_layout(checkpoint.config, layout)
    state = from_system(system, checkpoint.state, layout, body)
    assert isinstance(body, ConvNeXtConfig), "others have been refused"
    assert loads_elsewhere(body), "a body with four maps of strides 4 to 32"
    stored = Stored(
        config=card.config, body=body, labels=card.labels, num_classes=checkpoint.config.num_classes
    )
    _tell_losses(system, checkpoint, layout)
    write_atomically(system_files(system, target, state, card, system.folders[layout](stored)))


def _tell_losses(system: System[C, M, P], checkpoint: SystemCheckpoint[C, P], layout: str) -> None:
    lost = system.names.lost.get(layout, ())
    number = sum(key.startswith(lost) for key in checkpoint.state) if lost else 0
    if number:
        logger.info(
            "%s: the layout %s has no place for %d tensors (%s*), they are left out",
            checkpoint.path,
            layout,
            number,
            "*, ".join(lost),
        )


def _meta(card: SystemCard[P], layout: str) -> dict[str, Any]:
    """What readers of such files look for beside the weights: the names of the classes."""
    if card.labels is None:
        return {}
    labels = list(card.labels)
    return {"CLASSES": labels} if layout == "official" else {"dataset_meta": {"classes": labels}}


def _card(system: System[C, M, P], checkpoint: SystemCheckpoint[C, P]) -> SystemCard[P]:
    config = {k: v for k, v in vars(checkpoint.config).items() if k != "drop_path_rate"}
    name = checkpoint.card.name or system_name(system, checkpoint.config, checkpoint.body)
    return dataclasses.replace(
        checkpoint.card, name=name, config=config, body=checkpoint.body_fields
    )
