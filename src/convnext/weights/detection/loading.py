"""Detectors with weights from anywhere."""

import dataclasses
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from convnext.models.mask_rcnn import MaskRCNN, MaskRCNNConfig, detector_config
from convnext.models.registry import is_detector_name, unknown
from convnext.weights.adapting import adapt_in_chans
from convnext.weights.architecture import same_network
from convnext.weights.checkpoint import open_weights
from convnext.weights.detection.architecture import build_detector, detector_name
from convnext.weights.detection.backbone import load_backbone_weights
from convnext.weights.detection.checkpoint import (
    DetectorCheckpoint,
    DetectorPreprocessing,
    to_detector_checkpoint,
)
from convnext.weights.detection.layout import BODY
from convnext.weights.labels import coco_labels
from convnext.weights.layouts.layout import StateDict
from convnext.weights.load_report import LoadReport, load_state
from convnext.weights.sources import Source, resolve

__all__ = [
    "PREDICTORS",
    "DetectorInfo",
    "create_detector",
    "load_detector",
    "load_detector_weights",
]

logger = logging.getLogger(__name__)

# The layers whose size is the number of classes, as patterns for `allow`.
PREDICTORS = ("roi_head.*fc_cls.*", "roi_head.*fc_reg.*", "roi_head.*conv_logits.*")
MASK_HEADS = "roi_head.mask_head.*"
STEM = f"{BODY}stem.conv.weight"


@dataclass(frozen=True, kw_only=True)
class DetectorInfo:
    """What is known about loaded weights besides their values.

    Attributes:
        source: the tag, file, folder or URL that was given.
        name: name of the detector, None if none has these parts.
        labels: names of the classes in the order of the labels; None if unknown or if the
            predictors are new.
        preprocessing: what images need; None if unknown.
        licence: licence of the weights, if known.
        extra: anything else that was saved with the weights.
        report: what happened to each tensor.
    """

    source: str
    name: str | None
    labels: tuple[str, ...] | None
    preprocessing: DetectorPreprocessing | None
    licence: str | None
    extra: dict[str, Any] = field(default_factory=dict)
    report: LoadReport


def create_detector(
    detector: str | MaskRCNNConfig,
    *,
    pretrained: bool | str | Path = False,
    backbone_weights: bool | str | Path = False,
    body: Mapping[str, Any] | None = None,
    **changes: Any,
) -> MaskRCNN:
    """Build a detector, with new or with pretrained weights.

    Args:
        detector: "mask_rcnn_" or "cascade_mask_rcnn_" and the name of a network, which may be
            "timm:" and timm's name of one; or a configuration.
        pretrained: weights of a whole detector: ``True`` for the published ones, a tag, a file, a
            folder, a URL.
        backbone_weights: weights of the network below alone, see `load_backbone_weights`.
        body: fields of that network's configuration where they are not those of its name.
        **changes: fields of the configuration, such as ``num_classes=3``. With pretrained weights
            another number of classes starts new predictors.

    Raises:
        ValueError: unknown name or field, or weights that do not fit; says which tensors.
        OSError: a file cannot be read, or there is no network.
    """
    config = detector_config(detector) if isinstance(detector, str) else detector
    config = _changed(config, changes)
    model = build_detector(config, body)
    if backbone_weights is not False:
        load_backbone_weights(model, backbone_weights)
    if pretrained is not False:
        allow = PREDICTORS if "num_classes" in changes else ()
        info = load_detector_weights(model, pretrained, allow=allow)
        logger.info("%s: %s", info.source, info.report)
    return model


def load_detector(
    source: str | Path,
    *,
    ema: bool = True,
    allow: Iterable[str] = (),
    **changes: Any,
) -> tuple[MaskRCNN, DetectorInfo]:
    """Load a detector of any known layout.

    Args:
        source: a file, a folder, a URL, or ``"DETECTOR"`` or ``"DETECTOR.TAG"`` of the catalogue.
        ema: take averaged weights where a checkpoint has both.
        allow: names, or shell-style patterns of names, of tensors that may be missing, unexpected
            or of another shape.
        **changes: fields of the configuration that are to differ from the file's: another
            ``num_classes`` starts new predictors, other ``in_chans`` adapt the stem,
            ``masks=False`` leaves the mask heads out.

    Returns:
        The detector, in training mode as every new module (call ``.eval()`` to detect), and what is
        known about the weights.

    Raises:
        ValueError: the file holds no detector of this package, or weights do not fit; says what.
        OSError: a file cannot be read, or there is no network.
    """
    name = str(source)
    plain = is_detector_name(name) and "." not in name and not Path(name).exists()
    found = resolve(True, name) if plain else resolve(source)
    checkpoint = to_detector_checkpoint(open_weights(found.path, ema=ema))
    model = build_detector(_changed(checkpoint.config, changes), checkpoint.body_fields)
    allowed = [*allow, *(PREDICTORS if "num_classes" in changes else ())]
    if changes.get("masks") and not checkpoint.config.masks:
        allowed.append(MASK_HEADS)
    return model, _load(model, checkpoint, found, allowed)


def load_detector_weights(
    model: MaskRCNN, source: str | Path | bool, *, ema: bool = True, allow: Iterable[str] = ()
) -> DetectorInfo:
    """Load the weights of a whole detector into one that is there.

    Args:
        model: it is changed.
        source: as in `load_detector`; also a tag of the detector, or True for its published
            weights.
        ema: as in `load_detector`.
        allow: as in `load_detector`. With `PREDICTORS` those stay new where the file has another
            number of classes.

    Raises:
        ValueError: the weights do not fit; says what differs.
        OSError: a file cannot be read, or there is no network.
    """
    found = resolve(source, detector_name(model.config))
    return _load(model, to_detector_checkpoint(open_weights(found.path, ema=ema)), found, allow)


def _changed(config: MaskRCNNConfig, changes: Mapping[str, Any]) -> MaskRCNNConfig:
    fields = [f.name for f in dataclasses.fields(config)]
    for name in changes:
        if name not in fields:
            raise unknown("field of a detector", name, fields)
    return dataclasses.replace(config, **changes)


def _load(
    model: MaskRCNN, checkpoint: DetectorCheckpoint, found: Source, allow: Iterable[str]
) -> DetectorInfo:
    allow = tuple(allow)
    state, done = dict(checkpoint.state), list(checkpoint.converted.done)
    have, want = checkpoint.config, model.config
    _check_body(model, checkpoint, found.text)
    if have.num_classes != want.num_classes:
        _check_classes(state, have.num_classes, want.num_classes, found.text, allow)
        done.append(f"predictors are new ({want.num_classes} classes; file: {have.num_classes})")
        state = {k: v for k, v in state.items() if not _fits(k, PREDICTORS)}
    if have.masks and not want.masks:
        state = {k: v for k, v in state.items() if not _fits(k, (MASK_HEADS,))}
        done.append("mask heads left out (masks=False)")
    if STEM in state and state[STEM].shape[1] != want.in_chans:
        done.append(f"{STEM} from {state[STEM].shape[1]} to {want.in_chans} input channels")
        state[STEM] = adapt_in_chans(state[STEM], want.in_chans)
    report = LoadReport(
        layout=checkpoint.layout.title,
        wrappers=checkpoint.wrappers,
        unexpected=list(checkpoint.converted.unexpected),
        reshaped=dict(checkpoint.converted.reshaped),
        dropped=list(checkpoint.converted.dropped),
        adapted=done,
    )
    load_state(model, state, report, source=found.text, allow=allow)
    return _info(model, checkpoint, found, report)


def _check_body(model: MaskRCNN, checkpoint: DetectorCheckpoint, source: str) -> None:
    have, want = checkpoint.body, getattr(model.backbone.body, "config", None)
    if have is None or want is None or same_network(have, want):
        return
    raise ValueError(
        f"{source} holds a detector on {checkpoint.name or 'another network'}, not on "
        f"{model.config.backbone}; build the detector that the file has, or load it by "
        "load_detector, which finds out by itself"
    )


def _check_classes(
    state: StateDict, have: int, want: int, source: str, allow: tuple[str, ...]
) -> None:
    """Refuse another number of classes unless new predictors were asked for."""
    if all(_fits(name, allow) for name in state if _fits(name, PREDICTORS)):
        return
    raise ValueError(
        f"{source} detects {have} classes, this detector {want}: with num_classes={want} or "
        f"allow=PREDICTORS ({', '.join(PREDICTORS)}) the last layers start anew and the rest is "
        "loaded"
    )


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _info(
    model: MaskRCNN, checkpoint: DetectorCheckpoint, found: Source, report: LoadReport
) -> DetectorInfo:
    card, published = checkpoint.card, found.detector
    labels = card.labels
    if labels is None and published is not None:
        labels = coco_labels()
    if labels is not None and len(labels) != model.config.num_classes:
        labels = None
    usual = DetectorPreprocessing() if model.config.in_chans == 3 else None
    return DetectorInfo(
        source=found.text,
        name=card.name or detector_name(model.config, checkpoint.body),
        labels=labels,
        preprocessing=card.preprocessing or (usual if published is not None else None),
        licence=published.licence if published is not None else card.licence,
        extra=card.extra,
        report=report,
    )
