"""Data sets, transforms, resumable loaders and checks. Names are loaded on first use."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convnext.data.batches import EvalBatches, TrainBatches, plan_accumulation
    from convnext.data.config import (
        AugmentConfig,
        DataConfig,
        DetectionAugmentConfig,
        DetectionDataConfig,
        ImagesConfig,
        SegmentationAugmentConfig,
        SegmentationDataConfig,
    )
    from convnext.data.dataset import ImageDataset, eval_dataset, train_dataset
    from convnext.data.decode import read_image
    from convnext.data.doctor import DoctorReport
    from convnext.data.files import FileBatches, iter_files
    from convnext.data.loading import num_workers
    from convnext.data.mixup import Mixup
    from convnext.data.sampling import class_weights
    from convnext.data.scan import check_images
    from convnext.data.source import Source
    from convnext.data.splits import Finding, Splits, open_for_evaluation, open_splits
    from convnext.data.summary import DataSummary, summarise
    from convnext.data.transforms import eval_transform, train_transform
    from convnext.data.unlabelled import open_images

_HOMES = {
    "AugmentConfig": "config",
    "DataConfig": "config",
    "DataSummary": "summary",
    "DetectionAugmentConfig": "config",
    "DetectionDataConfig": "config",
    "DoctorReport": "doctor",
    "EvalBatches": "batches",
    "FileBatches": "files",
    "Finding": "splits",
    "ImageDataset": "dataset",
    "ImagesConfig": "config",
    "Mixup": "mixup",
    "SegmentationAugmentConfig": "config",
    "SegmentationDataConfig": "config",
    "Source": "source",
    "Splits": "splits",
    "TrainBatches": "batches",
    "check_images": "scan",
    "class_weights": "sampling",
    "eval_dataset": "dataset",
    "eval_transform": "transforms",
    "iter_files": "files",
    "num_workers": "loading",
    "open_for_evaluation": "splits",
    "open_splits": "splits",
    "plan_accumulation": "batches",
    "read_image": "decode",
    "summarise": "summary",
    "train_dataset": "dataset",
    "open_images": "unlabelled",
    "train_transform": "transforms",
}

__all__ = [
    "AugmentConfig",
    "DataConfig",
    "DataSummary",
    "DetectionAugmentConfig",
    "DetectionDataConfig",
    "DoctorReport",
    "EvalBatches",
    "FileBatches",
    "Finding",
    "ImageDataset",
    "ImagesConfig",
    "Mixup",
    "SegmentationAugmentConfig",
    "SegmentationDataConfig",
    "Source",
    "Splits",
    "TrainBatches",
    "check_images",
    "class_weights",
    "eval_dataset",
    "eval_transform",
    "iter_files",
    "num_workers",
    "open_for_evaluation",
    "open_images",
    "open_splits",
    "plan_accumulation",
    "read_image",
    "summarise",
    "train_dataset",
    "train_transform",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"convnext.data.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'convnext.data' has no attribute {name!r}")
