"""Weights of detectors: their layouts, loading, saving, conversion."""

from convnext.weights.detection.backbone import load_backbone_weights
from convnext.weights.detection.checkpoint import DetectorPreprocessing, is_detector
from convnext.weights.detection.loading import (
    PREDICTORS,
    DetectorInfo,
    create_detector,
    load_detector,
    load_detector_weights,
)
from convnext.weights.detection.saving import save_detector

__all__ = [
    "PREDICTORS",
    "DetectorInfo",
    "DetectorPreprocessing",
    "create_detector",
    "is_detector",
    "load_backbone_weights",
    "load_detector",
    "load_detector_weights",
    "save_detector",
]
