"""Published weights, checkpoint layouts, and networks with weights from anywhere.

What is for detectors is loaded on first use, for it needs torchvision.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from convnext.weights.catalogue import find, format_table, list_weights
from convnext.weights.convert import convert
from convnext.weights.create import PretrainedInfo, create_model, load_pretrained
from convnext.weights.detector_catalogue import list_detector_weights
from convnext.weights.inspection import Inspection, inspect
from convnext.weights.merging import merge_weights
from convnext.weights.preprocessing import Preprocessing
from convnext.weights.saving import save_pretrained

if TYPE_CHECKING:
    from convnext.weights.detection import (
        DetectorInfo,
        DetectorPreprocessing,
        create_detector,
        load_backbone_weights,
        load_detector,
        load_detector_weights,
        save_detector,
    )

__all__ = [
    "DetectorInfo",
    "DetectorPreprocessing",
    "Inspection",
    "Preprocessing",
    "PretrainedInfo",
    "convert",
    "create_detector",
    "create_model",
    "find",
    "format_table",
    "inspect",
    "list_detector_weights",
    "list_weights",
    "load_backbone_weights",
    "load_detector",
    "load_detector_weights",
    "load_pretrained",
    "merge_weights",
    "save_detector",
    "save_pretrained",
]


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(import_module("convnext.weights.detection"), name)
    raise AttributeError(f"module 'convnext.weights' has no attribute {name!r}")
