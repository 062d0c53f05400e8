"""Systems with weights from anywhere."""

import dataclasses
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Generic, cast

from torch import nn

from convnext.models.registry import unknown
from convnext.weights.adapting import STEMS, adapt_in_chans
from convnext.weights.architecture import same_network
from convnext.weights.checkpoint import open_weights
from convnext.weights.layouts.layout import StateDict
from convnext.weights.load_report import LoadReport, load_state
from convnext.weights.sources import Source, resolve
from convnext.weights.systems.backbone import load_backbone_weights
from convnext.weights.systems.body import build_system, system_name
from convnext.weights.systems.checkpoint import SystemCheckpoint, to_system_checkpoint
from convnext.weights.systems.layout import BODY
from convnext.weights.systems.system import C, M, P, System

__all__ = ["SystemInfo", "create_system", "load_system", "load_system_weights"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SystemInfo(Generic[P]):
    """What is known about loaded weights besides their values.

    Attributes:
        source: the tag, file, folder or URL that was given.
        name: name of the system, None if none has these parts.
        labels: names of the classes in the order of the outputs; None if unknown or if the
            predictors are new.
        preprocessing: what images need; None if unknown.
        licence: licence of the weights, if known.
        extra: anything else that was saved with the weights.
        report: what happened to each tensor.
    """

    source: str
    name: str | None
    labels: tuple[str, ...] | None
    preprocessing: P | None
    licence: str | None
    extra: dict[str, Any] = field(default_factory=dict)
    report: LoadReport


def create_system(
    system: System[C, M, P],
    given: str | C,
    *,
    pretrained: bool | str | Path,
    backbone_weights: bool | str | Path,
    body: Mapping[str, Any] | None,
    changes: Mapping[str, Any],
) -> M:
    """Build a system, with new or with pretrained weights.

    Args:
        system: its kind.
        given: its name or its configuration.
        pretrained: weights of a whole system; False for new ones.
        backbone_weights: weights of the network below alone; False for new ones.
        body: fields of that network's configuration where they are not those of its name.
        changes: fields of the configuration. With pretrained weights another number of classes
            starts new predictors.

    Raises:
        ValueError: unknown name or field, or weights that do not fit; says which tensors.
        OSError: a file cannot be read, or there is no network.
    """
    config = system.named(given) if isinstance(given, str) else given
    config = _changed(system, config, changes)
    model = build_system(system, config, body)
    if backbone_weights is not False:
        load_backbone_weights(model, backbone_weights)
    if pretrained is not False:
        allow = system.predictors if "num_classes" in changes else ()
        info = load_system_weights(system, model, pretrained, allow=allow)
        logger.info("%s: %s", info.source, info.report)
    return model


def load_system(
    system: System[C, M, P],
    source: str | Path,
    *,
    ema: bool = True,
    allow: Iterable[str] = (),
    changes: Mapping[str, Any] | None = None,
) -> tuple[M, SystemInfo[P]]:
    """Load a system of any known layout.

    Args:
        system: its kind.
        source: a file, a folder, a URL, or a name of the catalogue with or without a tag.
        ema: take averaged weights where a checkpoint has both.
        allow: names, or shell-style patterns of names, of tensors that may be missing, unexpected
            or of another shape.
        changes: fields of the configuration that are to differ from the file's.

    Returns:
        The system, in training mode as every new module, and what is known about the weights.

    Raises:
        ValueError: the file holds no such system, or weights do not fit; says what.
        OSError: a file cannot be read, or there is no network.
    """
    name, changes = str(source), changes or {}
    plain = system.is_name(name) and "." not in name and not Path(name).exists()
    found = resolve(True, name) if plain else resolve(source)
    checkpoint = to_system_checkpoint(system, open_weights(found.path, ema=ema), changes)
    config = _changed(system, checkpoint.config, changes)
    model = build_system(system, config, checkpoint.body_fields)
    allowed = [*allow, *(system.predictors if "num_classes" in changes else ())]
    optional = system.optional
    if changes.get(optional.field) and not getattr(checkpoint.config, optional.field):
        allowed.append(optional.pattern)
    return model, _load(system, model, checkpoint, found, allowed)


def load_system_weights(
    system: System[C, M, P],
    model: nn.Module,
    source: str | Path | bool,
    *,
    ema: bool = True,
    allow: Iterable[str] = (),
) -> SystemInfo[P]:
    """Load the weights of a whole system into one that is there.

    Args:
        system: its kind.
        model: it is changed.
        source: as in `load_system`; also a tag of the system, or True for its published weights.
        ema: as in `load_system`.
        allow: as in `load_system`. With the patterns of the predictors those stay new where the
            file has another number of classes.

    Raises:
        ValueError: the weights do not fit; says what differs.
        OSError: a file cannot be read, or there is no network.
    """
    network: Any = model
    found = resolve(source, system_name(system, network.config))
    opened = open_weights(found.path, ema=ema)
    told = dataclasses.asdict(network.config)
    return _load(system, model, to_system_checkpoint(system, opened, told), found, allow)


def _changed(system: System[C, M, P], config: C, changes: Mapping[str, Any]) -> C:
    fields = [f.name for f in dataclasses.fields(config)]
    for name in changes:
        if name not in fields:
            raise unknown(f"field of a {system.kind.word}", name, fields)
    return dataclasses.replace(config, **changes)


def _load(
    system: System[C, M, P],
    model: Any,
    checkpoint: SystemCheckpoint[C, P],
    found: Source,
    allow: Iterable[str],
) -> SystemInfo[P]:
    allow = tuple(allow)
    state, done = dict(checkpoint.state), list(checkpoint.converted.done)
    have, want, head = checkpoint.config, model.config, system.optional
    _check_body(system, model, checkpoint, found.text)
    if have.num_classes != want.num_classes:
        _check_classes(system, state, have.num_classes, want.num_classes, found.text, allow)
        done.append(f"predictors are new ({want.num_classes} classes; file: {have.num_classes})")
        state = {k: v for k, v in state.items() if not _fits(k, system.predictors)}
    if getattr(have, head.field) and not getattr(want, head.field):
        state = {k: v for k, v in state.items() if not _fits(k, (head.pattern,))}
        done.append(f"{head.title} left out ({head.field}={getattr(want, head.field)})")
    for width in (w for w in system.widths if w != head.field):  # of shapes that differ, too
        if getattr(have, width) != getattr(want, width):
            done.append(f"{width} {getattr(have, width)} in the file, {getattr(want, width)} here")
    for name in (f"{BODY}{stem}" for stem in STEMS):
        if name in state and state[name].shape[1] != want.in_chans:
            done.append(f"{name} from {state[name].shape[1]} to {want.in_chans} input channels")
            state[name] = adapt_in_chans(state[name], want.in_chans)
    report = LoadReport(
        layout=checkpoint.layout.title,
        wrappers=checkpoint.wrappers,
        unexpected=list(checkpoint.converted.unexpected),
        reshaped=dict(checkpoint.converted.reshaped),
        dropped=list(checkpoint.converted.dropped),
        adapted=done,
    )
    load_state(model, state, report, source=found.text, allow=allow)
    return _info(system, model, checkpoint, found, report)


def _check_body(
    system: System[C, M, P], model: Any, checkpoint: SystemCheckpoint[C, P], source: str
) -> None:
    have, want = checkpoint.body, getattr(model.backbone.body, "config", None)
    if have is None or want is None or same_network(have, want):
        return
    word = system.kind.word
    raise ValueError(
        f"{source} holds a {word} on {checkpoint.name or 'another network'}, not on "
        f"{model.config.backbone}; build the {word} that the file has, or load it by "
        f"{system.kind.loader}, which finds out by itself"
    )


def _check_classes(
    system: System[C, M, P],
    state: StateDict,
    have: int,
    want: int,
    source: str,
    allow: tuple[str, ...],
) -> None:
    """Refuse another number of classes unless new predictors were asked for."""
    predictors = system.predictors
    if all(_fits(name, allow) for name in state if _fits(name, predictors)):
        return
    raise ValueError(
        f"{source} {system.verb} {have} classes, this {system.kind.word} {want}: with "
        f"num_classes={want} or allow=PREDICTORS ({', '.join(predictors)}) the last layers start "
        "anew and the rest is loaded"
    )


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _info(
    system: System[C, M, P],
    model: Any,
    checkpoint: SystemCheckpoint[C, P],
    found: Source,
    report: LoadReport,
) -> SystemInfo[P]:
    card, published = checkpoint.card, found.system
    labels, preprocessing = card.labels, card.preprocessing
    if published is not None and labels is None:
        labels = system.labels()
    if labels is not None and len(labels) != model.config.num_classes:
        labels = None
    if published is not None and preprocessing is None and model.config.in_chans == 3:
        preprocessing = cast(P, published.preprocessing)
    return SystemInfo(
        source=found.text,
        name=card.name or system_name(system, model.config, checkpoint.body),
        labels=labels,
        preprocessing=preprocessing,
        licence=published.licence if published is not None else card.licence,
        extra=card.extra,
        report=report,
    )
