"""From the tensors of a detector to its configuration."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from convnext.models.mask_rcnn import MaskRCNNConfig

__all__ = ["describe", "infer_detector"]

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
    state: Mapping[str, Tensor], backbone: str, in_chans: int, stored: Mapping[str, Any]
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


def describe(config: MaskRCNNConfig) -> str:
    """The parts of a detector above its backbone, in words."""
    kind = "Cascade Mask R-CNN" if config.cascade else "Mask R-CNN"
    parts = [f"{kind} of {config.fpn_dim} channels", f"linear layers of {config.fc_dim}"]
    return ", ".join(parts + ([] if config.masks else ["no masks"]))
