"""Detectors as a kind of system: what their weights have that others have not."""

from collections.abc import Mapping
from typing import Any

from convnext.models.backbone import BackboneConfig
from convnext.models.mask_rcnn import DETECTORS, MaskRCNN, MaskRCNNConfig, detector_config
from convnext.models.registry import is_detector_name
from convnext.weights.detection.architecture import describe, infer_detector
from convnext.weights.labels import coco_labels
from convnext.weights.preprocessing import DetectorPreprocessing
from convnext.weights.systems.body import build_system, system_name
from convnext.weights.systems.kinds import DETECTOR
from convnext.weights.systems.system import Names, OptionalHead, System

__all__ = ["DETECTOR_LAYOUTS", "PREDICTORS", "SYSTEM", "build_detector", "detector_name"]

DETECTOR_LAYOUTS = ("convnext", "official", "timm", "transformers", "openmmlab")
# The layers whose size is the number of classes, as patterns for `allow`.
PREDICTORS = ("roi_head.*fc_cls.*", "roi_head.*fc_reg.*", "roi_head.*conv_logits.*")

SYSTEM: System[MaskRCNNConfig, MaskRCNN, DetectorPreprocessing] = System(
    kind=DETECTOR,
    verb="detects",
    network=MaskRCNN,
    named=detector_config,
    known=DETECTORS,
    is_name=is_detector_name,
    name_of=lambda config: f"{'cascade_' * config.cascade}mask_rcnn_{config.backbone}",
    widths=("fpn_dim", "fc_dim", "box_convs", "mask_convs", "masks"),
    infer=infer_detector,
    preprocessing=DetectorPreprocessing,
    labels=coco_labels,
    names=Names(layouts=DETECTOR_LAYOUTS, heads=("neck.", *DETECTOR.heads)),
    predictors=PREDICTORS,
    optional=OptionalHead("masks", "roi_head.mask_head.*", "mask heads"),
    describe=describe,
)


def build_detector(config: MaskRCNNConfig, body: Mapping[str, Any] | None = None) -> MaskRCNN:
    """A detector with new weights, see `build_system`."""
    return build_system(SYSTEM, config, body)


def detector_name(config: MaskRCNNConfig, body: BackboneConfig | None = None) -> str | None:
    """The name of a detector with these parts, see `system_name`."""
    return system_name(SYSTEM, config, body)
