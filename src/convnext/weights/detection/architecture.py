"""From the tensors of a detector to its configuration, and from a configuration to a detector."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from convnext.models.backbone import BackboneConfig
from convnext.models.mask_rcnn import DETECTORS, MaskRCNN, MaskRCNNConfig, detector_config
from convnext.models.registry import build_model, model_config
from convnext.weights.architecture import same_network, stored_fields
from convnext.weights.timm_backbone import TIMM, TimmBackbone

__all__ = ["build_detector", "detector_name", "infer_detector", "stored_detector"]

ANCHORS = 3  # at each place
STAGES = 3  # of a cascade
# What no shape tells, of the configuration that is stored with the weights.
UNTOLD = (
    "anchor_scale",
    "rpn_per_level",
    "rpn_proposals",
    "rpn_sampled",
    "roi_sampled",
    "score_threshold",
    "max_detections",
    "soft_nms",
)


def infer_detector(
    state: Mapping[str, Tensor], *, backbone: str, in_chans: int, stored: Mapping[str, Any]
) -> MaskRCNNConfig:
    """The configuration of the detector that a state dict under our names fits.

    Args:
        state: tensors.
        backbone: name of the network below.
        in_chans: its input channels.
        stored: the configuration that was saved with the weights, for what no shape tells.

    Raises:
        ValueError: the tensors do not make up a detector of this package.
    """
    boxes = "roi_head.bbox_head."
    cascade = f"{boxes}0.fc_cls.weight" in state
    first = f"{boxes}0." if cascade else boxes
    try:
        logits, deltas = state[f"{first}fc_cls.weight"], state[f"{first}fc_reg.weight"]
        fpn_dim = state["neck.lateral_convs.0.conv.weight"].shape[0]
        fc_dim = state[f"{first}shared_fcs.0.weight"].shape[0]
        anchors = state["rpn_head.rpn_cls.weight"].shape[0]
    except KeyError as missing:
        raise ValueError(f"not a whole detector: {missing.args[0]} is missing") from None
    classes = logits.shape[0] - 1
    _refuse_others(state, classes, deltas.shape[0], anchors, cascade)
    convs = _count(state, rf"{re.escape(first)}shared_convs\.(\d+)\.conv\.weight")
    masks = r"roi_head\.mask_head\." + (r"0\." if cascade else "")
    values: dict[str, Any] = {
        "backbone": backbone,
        "num_classes": classes,
        "in_chans": in_chans,
        "cascade": cascade,
        "masks": any(key.startswith("roi_head.mask_head.") for key in state),
        "fpn_dim": fpn_dim,
        "fc_dim": fc_dim,
        "box_convs": None if convs == 4 * cascade else convs,
    }
    untold = UNTOLD if values["masks"] else (*UNTOLD, "mask_convs")
    if values["masks"]:
        values["mask_convs"] = _count(state, rf"{masks}convs\.(\d+)\.conv\.weight")
    kept = {k: v for k, v in stored.items() if k in untold}
    try:
        return MaskRCNNConfig(**{**values, **kept})
    except TypeError as error:
        raise ValueError(f"the configuration stored with it is wrong: {error}") from error


def _refuse_others(
    state: Mapping[str, Tensor], classes: int, deltas: int, anchors: int, cascade: bool
) -> None:
    """Detectors with the same names but another function."""
    if classes < 1 or deltas != 4 * classes:
        raise ValueError(
            f"its box head has {classes} classes and {deltas} deltas; detectors of this package "
            f"predict a box for each class ({4 * max(classes, 1)} deltas)"
        )
    if anchors != ANCHORS:
        raise ValueError(f"it has {anchors} anchors at each place; detectors here have {ANCHORS}")
    stages = _count(state, r"roi_head\.bbox_head\.(\d+)\.fc_cls\.weight")
    if cascade and stages != STAGES:
        raise ValueError(f"it is a cascade of {stages} stages; cascades here have {STAGES}")


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return len({found[1] for key in state if (found := re.fullmatch(pattern, key))})


def build_detector(config: MaskRCNNConfig, body: Mapping[str, Any] | None = None) -> MaskRCNN:
    """A detector with new weights.

    Args:
        config: its settings; the backbone may be "timm:" and timm's name of a network.
        body: fields of the body's configuration where they are not those of the named network.

    Raises:
        ValueError: there is no such network, or it has not four maps of strides 4 to 32.
    """
    name = config.backbone
    if name.startswith(TIMM):
        timm = TimmBackbone(
            name.removeprefix(TIMM),
            in_chans=config.in_chans,
            drop_path_rate=config.drop_path_rate,
        )
        return MaskRCNN(config, timm)
    network = build_model(
        name,
        num_classes=0,
        in_chans=config.in_chans,
        drop_path_rate=config.drop_path_rate,
        features_only=True,
        **(body or {}),
    )
    return MaskRCNN(config, network)


def detector_name(config: MaskRCNNConfig, body: BackboneConfig | None = None) -> str | None:
    """The name of a detector with these parts; None if its widths or its body have none.

    Args:
        config: its settings.
        body: configuration of its body, to be compared with the named network's.
    """
    name = f"{'cascade_' * config.cascade}mask_rcnn_{config.backbone}"
    usual = detector_config(name) if config.backbone.startswith(TIMM) else DETECTORS.get(name)
    widths = ("fpn_dim", "fc_dim", "box_convs", "mask_convs", "masks")
    if usual is None or any(getattr(config, w) != getattr(usual, w) for w in widths):
        return None
    if body is not None and not same_network(model_config(config.backbone), body):
        return None
    return name


def stored_detector(model: MaskRCNN) -> tuple[dict[str, Any], dict[str, Any]]:
    """What of a detector's configuration belongs to its weights, and of its body's."""
    config = dataclasses.asdict(model.config)
    config = {k: v for k, v in config.items() if k != "drop_path_rate"}
    return config, body_fields(model.backbone.body)


def body_fields(body: nn.Module) -> dict[str, Any]:
    """Fields of a body's configuration; none of a network of another library."""
    config = getattr(body, "config", None)
    return dict(stored_fields(config)) if isinstance(config, BackboneConfig) else {}
