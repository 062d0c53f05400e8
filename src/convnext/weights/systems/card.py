"""What a file or folder says about a system besides the values of its weights."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

from convnext.models.field_values import checked_fields, from_dict
from convnext.models.registry import is_model, model_config
from convnext.weights.checkpoint import SECTION, Opened
from convnext.weights.reading import read_json
from convnext.weights.systems.system import C, M, P, System

__all__ = ["SystemCard", "read_card"]


@dataclass(frozen=True, kw_only=True)
class SystemCard(Generic[P]):
    """What is stored with the weights of a system.

    Attributes:
        task: what it does.
        name: name of the system.
        config: fields of its configuration.
        body: fields of its body's configuration.
        labels: names of the classes, in the order of the outputs.
        preprocessing: what images need.
        licence: licence of the weights.
        extra: anything else that was saved with them.
    """

    task: str
    name: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] | None = None
    preprocessing: P | None = None
    licence: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)


def read_card(system: System[C, M, P], opened: Opened) -> SystemCard[P]:
    """The card of a folder, of a safetensors file, or what OpenMMLab writes beside the weights.

    Raises:
        ValueError: it is damaged; the message names the file.
    """
    path, section = opened.file, {}
    try:
        if SECTION in opened.metadata:
            section = json.loads(opened.metadata[SECTION])
        path = opened.file.parent / "config.json"
        if opened.folder and path.is_file():
            section = _of_folder(system, path, section)
        if section:
            return _card(system, section)
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return SystemCard(task=system.kind.task, labels=_classes_of(opened.content))


def _of_folder(system: System[C, M, P], path: Path, stored: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json says, with what is stored in the file of weights where it says nothing."""
    values = read_json(path)
    if SECTION in values:
        section = values[SECTION]
    else:
        theirs = system.elsewhere(path.parent, values)
        config = {**stored.get("config", {}), **theirs.get("config", {})}
        section = {**stored, **theirs, "config": config}
    return {**section, "labels": values.get("label_names", section.get("labels"))}


def _card(system: System[C, M, P], values: Mapping[str, Any]) -> SystemCard[P]:
    """Read `SystemCard.to_dict` back; entries of later versions are ignored."""
    known = {f.name for f in dataclasses.fields(SystemCard)}
    found = {k: v for k, v in values.items() if k in known}
    for name, kind in (("config", dict), ("body", dict), ("extra", dict), ("labels", list | tuple)):
        if found.get(name) is not None and not isinstance(found[name], kind):
            raise ValueError(f"{name} is {type(found[name]).__name__}, not what is stored there")
    for name in ("config", "body", "extra"):
        found[name] = found.get(name) or {}
    _check_config(system, found["config"], found["body"])
    if found.get("labels") is not None:
        found["labels"] = tuple(map(str, found["labels"]))
    if found.get("preprocessing") is not None:
        found["preprocessing"] = from_dict(system.preprocessing, found["preprocessing"])
    return SystemCard(**{**found, "task": system.kind.task})


def _check_config(
    system: System[C, M, P], config: Mapping[str, Any], body: Mapping[str, Any]
) -> None:
    """Refuse values that a configuration, or that of its body, cannot have.

    Raises:
        ValueError: naming the field.
    """
    usual = next(iter(system.known.values()))
    own = checked_fields(type(usual), _known(usual, config), "config.")
    backbone = dataclasses.replace(usual, **own).backbone
    if is_model(backbone):
        below = model_config(backbone)
        checked_fields(type(below), _known(below, body), "body.")


def _known(config: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a configuration has fields for; later versions may have more."""
    fields = {f.name for f in dataclasses.fields(config)}
    return {k: v for k, v in values.items() if k in fields}


def _classes_of(content: object) -> tuple[str, ...] | None:
    """Names of classes in the `meta` of OpenMMLab's files, of which there are several forms."""
    meta = content.get("meta") if isinstance(content, Mapping) else None
    if not isinstance(meta, Mapping):
        return None
    inside = meta.get("dataset_meta")
    for place in (inside if isinstance(inside, Mapping) else {}, meta):
        names = place.get("classes", place.get("CLASSES"))
        if isinstance(names, list | tuple) and names:
            return tuple(map(str, names))
    return None
