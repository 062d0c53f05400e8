"""Published weights, checkpoint layouts, and networks with weights from anywhere.

What is for detectors and segmentation networks is loaded on first use: the first need torchvision.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from convnext.weights.catalogue import find, format_table, list_weights
from convnext.weights.convert import convert
from convnext.weights.create import PretrainedInfo, create_model, load_pretrained
from convnext.weights.detector_catalogue import list_detector_weights
from convnext.weights.inspection import Inspection, inspect
from convnext.weights.merging import merge_weights
from convnext.weights.preprocessing import (
    DetectorPreprocessing,
    Preprocessing,
    SegmenterPreprocessing,
)
from convnext.weights.saving import save_pretrained
from convnext.weights.segmenter_catalogue import list_segmenter_weights
from convnext.weights.systems.backbone import load_backbone_weights

if TYPE_CHECKING:
    from convnext.weights.detection import (
        DetectorInfo,
        create_detector,
        load_detector,
        load_detector_weights,
        save_detector,
    )
    from convnext.weights.segmentation import (
        SegmenterInfo,
        create_segmenter,
        load_segmenter,
        load_segmenter_weights,
        save_segmenter,
    )

__all__ = [
    "DetectorInfo",
    "DetectorPreprocessing",
    "Inspection",
    "Preprocessing",
    "PretrainedInfo",
    "SegmenterInfo",
    "SegmenterPreprocessing",
    "convert",
    "create_detector",
    "create_model",
    "create_segmenter",
    "find",
    "format_table",
    "inspect",
    "list_detector_weights",
    "list_segmenter_weights",
    "list_weights",
    "load_backbone_weights",
    "load_detector",
    "load_detector_weights",
    "load_pretrained",
    "load_segmenter",
    "load_segmenter_weights",
    "merge_weights",
    "save_detector",
    "save_pretrained",
    "save_segmenter",
]


def __getattr__(name: str) -> object:
    if name in __all__:
        task = "segmentation" if "segmenter" in name.lower() else "detection"
        return getattr(import_module(f"convnext.weights.{task}"), name)
    raise AttributeError(f"module 'convnext.weights' has no attribute {name!r}")
