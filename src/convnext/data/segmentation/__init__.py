"""Segmentation data: images with a class for every pixel. Names are loaded on first use."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convnext.data.segmentation.coding import IGNORE, MaskError
    from convnext.data.segmentation.dataset import (
        SegmentationBatch,
        SegmentationDataset,
        segmentation_dataset,
    )
    from convnext.data.segmentation.doctor import scan_segmentation
    from convnext.data.segmentation.doubts import find_doubt
    from convnext.data.segmentation.source import SegmentationSource
    from convnext.data.segmentation.splits import (
        is_segmentation_set,
        open_segmentation,
        open_segmentation_for_evaluation,
    )
    from convnext.data.segmentation.summary import SegmentationSummary, segmentation_summary
    from convnext.data.segmentation.survey import survey_masks
    from convnext.data.segmentation.trained import trained_images, trained_rows

_HOMES = {
    "IGNORE": "coding",
    "MaskError": "coding",
    "SegmentationBatch": "dataset",
    "SegmentationDataset": "dataset",
    "SegmentationSource": "source",
    "SegmentationSummary": "summary",
    "find_doubt": "doubts",
    "is_segmentation_set": "splits",
    "open_segmentation": "splits",
    "open_segmentation_for_evaluation": "splits",
    "scan_segmentation": "doctor",
    "segmentation_dataset": "dataset",
    "segmentation_summary": "summary",
    "survey_masks": "survey",
    "trained_images": "trained",
    "trained_rows": "trained",
}

__all__ = [
    "IGNORE",
    "MaskError",
    "SegmentationBatch",
    "SegmentationDataset",
    "SegmentationSource",
    "SegmentationSummary",
    "find_doubt",
    "is_segmentation_set",
    "open_segmentation",
    "open_segmentation_for_evaluation",
    "scan_segmentation",
    "segmentation_dataset",
    "segmentation_summary",
    "survey_masks",
    "trained_images",
    "trained_rows",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"convnext.data.segmentation.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'convnext.data.segmentation' has no attribute {name!r}")
