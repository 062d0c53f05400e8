"""Segmentation networks to use: from a run, a checkpoint, a folder of weights, a name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convnext.data.config import SegmentationDataConfig
from convnext.models.upernet import UPerNet, segmenter_config
from convnext.recipes.recipe import Recipe, from_dict, to_dict
from convnext.run.folder import RunFolder
from convnext.run.target import load_target
from convnext.tasks.segment import SegmentConfig, SegmentTask
from convnext.train import checkpoint
from convnext.weights.segmentation import SegmenterPreprocessing, load_segmenter
from convnext.weights.timm_backbone import TIMM, TimmBackbone

__all__ = [
    "LoadedSegmenter",
    "load_trained_segmenter",
    "new_segment_task",
    "preprocessing_of",
    "reading_of",
]

SHARED = ("min_size", "max_size", "window", "stride", "mean", "std")  # of data and weights
# What values of masks mean, and what becomes of a pair that cannot be used.
READING = ("masks", "reduce_zero_label", "ignore_values", "on_bad_image")


@dataclass(frozen=True, kw_only=True)
class LoadedSegmenter:
    """A segmentation network that is ready to be used.

    Attributes:
        network: On its device, in evaluation mode.
        labels: Names of the classes.
        data: How images become tensors, and how masks were read in training, if that is known.
        title: What to call it.
        run: The run that it comes from, if any.
    """

    network: UPerNet
    labels: tuple[str, ...]
    data: SegmentationDataConfig
    title: str
    run: RunFolder | None = None


def new_segment_task(
    recipe: Recipe, num_classes: int, class_weights: Tensor | None = None
) -> SegmentTask:
    """The task of a recipe with new weights."""
    config, data = recipe.segment
    name = segmenter_config(config.model).backbone
    body = None
    if name.startswith(TIMM):
        body = TimmBackbone(
            name.removeprefix(TIMM), in_chans=data.in_chans, drop_path_rate=config.drop_path_rate
        )
    return SegmentTask(
        config,
        num_classes=num_classes,
        in_chans=data.in_chans,
        body=body,
        class_weights=class_weights,
    )


def preprocessing_of(data: SegmentationDataConfig) -> SegmenterPreprocessing:
    """What images need, as it is stored with weights."""
    values: dict[str, Any] = {name: getattr(data, name) for name in SHARED}
    values |= {"mean": data.channel_mean, "std": data.channel_std}
    return SegmenterPreprocessing(**values)


def reading_of(data: SegmentationDataConfig) -> dict[str, Any]:
    """How masks are read, as it is stored with weights: they are to be scored in the same way."""
    values: dict[str, Any] = {name: to_dict(getattr(data, name)) for name in READING}
    return values


def _stored_reading(extra: dict[str, Any], target: str) -> dict[str, Any]:
    """What `reading_of` stored, checked; of older weights, and of foreign ones, nothing."""
    stored = extra.get("reading", {})
    try:
        if not isinstance(stored, dict):
            raise ValueError(f"reading is {stored!r}; expected an object")
        kept = {name: value for name, value in stored.items() if name in READING}
        data = from_dict(SegmentationDataConfig, kept)
    except ValueError as error:
        raise ValueError(f"{target}: what is stored of its masks is damaged ({error})") from None
    return {name: getattr(data, name) for name in READING}


def load_trained_segmenter(target: str, device: torch.device) -> LoadedSegmenter:
    """The segmentation network that `target` names.

    Args:
        target: a run, a checkpoint of one, weights, or a published name such as
            upernet_convnext_tiny.in1k_ade20k.
        device: where it goes.

    Raises:
        ValueError: there is no such thing.
        OSError: it cannot be read.
    """
    return load_target(target, device, _from_weights, _from_run)


def _from_weights(target: str) -> LoadedSegmenter:
    network, info = load_segmenter(target)
    known = info.preprocessing or SegmenterPreprocessing()
    config = network.config
    values: dict[str, Any] = {name: getattr(known, name) for name in SHARED}
    values |= _stored_reading(info.extra, target)
    return LoadedSegmenter(
        network=network,
        labels=info.labels or tuple(str(i) for i in range(config.num_classes)),
        data=SegmentationDataConfig(in_chans=config.in_chans, **values),
        title=target,
    )


def _from_run(path: Path) -> LoadedSegmenter:
    """A checkpoint of the training engine: averaged weights where there are some."""
    saved = checkpoint.load(path)
    values = saved["recipe"]
    recipe = Recipe(
        task=from_dict(SegmentConfig, values["task"]),
        data=from_dict(SegmentationDataConfig, values["data"]),
    )
    task = new_segment_task(recipe, len(values["classes"]))
    task.load_state_dict(saved.get("ema") or saved["task"])
    return LoadedSegmenter(
        network=task.network,
        labels=tuple(values["classes"]),
        data=recipe.segment[1],
        title=str(path),
    )
