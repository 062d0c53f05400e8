"""A folder with a system's weights and what is needed to use them again.

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
from convnext.weights.atomic import Writer, safetensors_writer, text_writer, write_atomically
from convnext.weights.checkpoint import SECTION
from convnext.weights.folder import CONFIG, WEIGHTS
from convnext.weights.layouts.layout import StateDict
from convnext.weights.systems.body import stored_system, system_name
from convnext.weights.systems.card import SystemCard
from convnext.weights.systems.layout import from_system
from convnext.weights.systems.system import C, M, P, System

__all__ = ["published_names", "save_system", "system_files"]


def save_system(
    system: System[C, M, P],
    model: nn.Module,
    directory: str | Path,
    *,
    labels: Sequence[str] | None,
    preprocessing: P | None,
    name: str | None,
    licence: str | None,
    extra: Mapping[str, Any] | None,
) -> Path:
    """Write a system's weights and what is needed to use them again.

    Args:
        system: its kind.
        model: wrappers of DDP and torch.compile are taken off.
        directory: folder, made if missing. Files of an earlier save are replaced.
        labels: names of the classes in the order of the outputs.
        preprocessing: what images need.
        name: name to store; found out from the parts by default.
        licence: licence of the weights.
        extra: anything else to keep with the weights, as JSON values (scores, recipe).

    Returns:
        The folder.

    Raises:
        ValueError: the model is no such system, or labels or preprocessing do not fit.
        OSError: no space or no permission; nothing half-written is left.
    """
    network, word = _bare(system, model), system.kind.word
    config, body = network.config, network.backbone.body
    if labels is not None and len(labels) != config.num_classes:
        raise ValueError(f"{len(labels)} labels for a {word} with {config.num_classes} classes")
    if preprocessing is not None and len(preprocessing.mean) != config.in_chans:
        raise ValueError(
            f"preprocessing has {len(preprocessing.mean)} channels, the {word} has "
            f"{config.in_chans}; give mean and std one value per channel"
        )
    own = body.config if isinstance(body, Backbone) else None
    stored, body_fields = stored_system(network)
    card = SystemCard(
        task=system.kind.task,
        name=name or system_name(system, config, own),
        config=stored,
        body=body_fields,
        labels=None if labels is None else tuple(labels),
        preprocessing=preprocessing,
        licence=licence,
        extra=dict(extra or {}),
    )
    folder = Path(directory).expanduser()
    state = published_names(system, network.state_dict(), own)
    write_atomically(system_files(system, folder, state, card))
    return folder


def system_files(
    system: System[C, M, P],
    folder: Path,
    state: StateDict,
    card: SystemCard[P],
    values: Mapping[str, Any] | None = None,
) -> dict[Path, Writer]:
    """What is to be written for a system, by file.

    Args:
        system: its kind.
        folder: where.
        state: tensors under names of any layout of the system.
        card: what is stored with them.
        values: of config.json in a folder for another library, which may refuse our section;
            by default the name, the labels and that section.

    Raises:
        ValueError: `card.extra` cannot be written as JSON.
    """
    section = {"version": convnext.__version__, **card.to_dict()}
    if values is None:
        values = {"architecture": card.name or system.kind.word}
        if card.labels is not None:
            values = {**values, "label_names": list(card.labels)}
        values = {**values, SECTION: {k: v for k, v in section.items() if k != "labels"}}
    try:
        text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)
        metadata = {"format": "pt", SECTION: json.dumps(section)}
    except (TypeError, ValueError) as error:
        raise ValueError(f"extra cannot be written as JSON: {error}") from error
    return {
        folder / WEIGHTS: safetensors_writer(state, metadata),
        folder / CONFIG: text_writer(text + "\n"),
    }


def published_names(
    system: System[C, M, P], state: StateDict, body: BackboneConfig | None
) -> StateDict:
    """The published names where the body has some, else ours."""
    if body is None:
        return from_system(system, state, "convnext")
    try:
        return from_system(system, state, "official", body)
    except ValueError:
        return from_system(system, state, "convnext")


def _bare(system: System[C, M, P], model: nn.Module) -> Any:
    network: Any = model
    while hasattr(network, "_orig_mod") or isinstance(getattr(network, "module", None), nn.Module):
        network = getattr(network, "_orig_mod", None) or network.module
    if not isinstance(network, system.network):
        raise ValueError(
            f"{system.kind.loader.replace('load', 'save')} writes {system.kind.word}s of this "
            f"package, not {type(network).__name__}"
        )
    return network
