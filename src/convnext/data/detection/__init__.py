"""Detection data: images with boxes and masks. Names are loaded on first use."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convnext.data.detection.dataset import DetectionBatch, DetectionDataset, detection_dataset
    from convnext.data.detection.doctor import scan_detection
    from convnext.data.detection.files import DetectionFiles, PictureBatch
    from convnext.data.detection.source import DetectionSource, Objects
    from convnext.data.detection.splits import (
        detection_problems,
        is_detection_set,
        open_detection,
        open_detection_for_evaluation,
    )
    from convnext.data.detection.summary import DetectionSummary, detection_summary
    from convnext.data.detection.trained import trained_images

_HOMES = {
    "PictureBatch": "files",
    "scan_detection": "doctor",
    "detection_summary": "summary",
    "DetectionSummary": "summary",
    "DetectionFiles": "files",
    "DetectionBatch": "dataset",
    "DetectionDataset": "dataset",
    "DetectionSource": "source",
    "Objects": "source",
    "detection_dataset": "dataset",
    "detection_problems": "splits",
    "is_detection_set": "splits",
    "open_detection": "splits",
    "open_detection_for_evaluation": "splits",
    "trained_images": "trained",
}

__all__ = [
    "DetectionBatch",
    "DetectionDataset",
    "DetectionFiles",
    "DetectionSource",
    "DetectionSummary",
    "Objects",
    "PictureBatch",
    "detection_dataset",
    "detection_problems",
    "detection_summary",
    "is_detection_set",
    "open_detection",
    "open_detection_for_evaluation",
    "scan_detection",
    "trained_images",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"convnext.data.detection.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'convnext.data.detection' has no attribute {name!r}")
