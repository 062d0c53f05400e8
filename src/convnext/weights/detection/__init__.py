"""Weights of detectors: their layouts, loading, saving, conversion."""

from convnext.weights.detection.loading import (
    DetectorInfo,
    create_detector,
    is_detector,
    load_detector,
    load_detector_weights,
)
from convnext.weights.detection.saving import save_detector
from convnext.weights.detection.system import PREDICTORS, build_detector
from convnext.weights.preprocessing import DetectorPreprocessing
from convnext.weights.systems.backbone import load_backbone_weights

__all__ = [
    "PREDICTORS",
    "DetectorInfo",
    "DetectorPreprocessing",
    "build_detector",
    "create_detector",
    "is_detector",
    "load_backbone_weights",
    "load_detector",
    "load_detector_weights",
    "save_detector",
]
