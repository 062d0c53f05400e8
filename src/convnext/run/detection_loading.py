"""Detectors to use: from a run, a checkpoint, a folder of weights, a name."""

from dataclasses import dataclass
from pathlib import Path

import torch

from convnext.data.config import DetectionDataConfig
from convnext.models.mask_rcnn import MaskRCNN, detector_config
from convnext.recipes.recipe import Recipe, from_dict
from convnext.run.folder import RunFolder
from convnext.run.target import load_target
from convnext.tasks.detect import DetectConfig, DetectTask
from convnext.train import checkpoint
from convnext.weights.detection import DetectorPreprocessing, load_detector
from convnext.weights.labels import coco_category_ids, coco_labels
from convnext.weights.timm_backbone import TIMM, TimmBackbone

__all__ = ["LoadedDetector", "load_trained", "new_task"]


@dataclass(frozen=True, kw_only=True)
class LoadedDetector:
    """A detector that is ready to detect.

    Attributes:
        network: On its device, in evaluation mode.
        labels: Names of the classes.
        data: How images become tensors.
        title: What to call it.
        category_ids: Numbers of the classes in the annotations it was trained on, if known.
        run: The run that it comes from, if any.
    """

    network: MaskRCNN
    labels: tuple[str, ...]
    data: DetectionDataConfig
    title: str
    category_ids: tuple[int, ...] | None = None
    run: RunFolder | None = None


def new_task(recipe: Recipe, num_classes: int) -> DetectTask:
    """The task of a recipe with new weights."""
    config, data = recipe.detect
    name = detector_config(config.model).backbone
    body = None
    if name.startswith(TIMM):
        body = TimmBackbone(
            name.removeprefix(TIMM), in_chans=data.in_chans, drop_path_rate=config.drop_path_rate
        )
    return DetectTask(config, num_classes=num_classes, in_chans=data.in_chans, body=body)


def load_trained(target: str, device: torch.device) -> LoadedDetector:
    """The detector that `target` names.

    Args:
        target: a run, a checkpoint of one, weights, or a published name such as
            mask_rcnn_convnext_tiny.in1k_coco.
        device: where it goes.

    Raises:
        ValueError: there is no such thing.
        OSError: it cannot be read.
    """
    return load_target(target, device, _from_weights, _from_run)


def _from_weights(target: str) -> LoadedDetector:
    network, info = load_detector(target)
    chans = network.config.in_chans
    known = info.preprocessing or DetectorPreprocessing()
    labels = info.labels or tuple(str(i) for i in range(network.config.num_classes))
    return LoadedDetector(
        network=network,
        labels=labels,
        data=DetectionDataConfig(
            in_chans=chans,
            mean=known.mean,
            std=known.std,
            min_size=known.min_size,
            max_size=known.max_size,
            masks=network.config.masks,
        ),
        title=target,
        category_ids=_category_ids(info.extra.get("category_ids"), labels),
    )


def _category_ids(stored: object, labels: tuple[str, ...]) -> tuple[int, ...] | None:
    """What a run stored with its weights; weights with the classes of COCO have COCO's numbers."""
    numbers = stored if isinstance(stored, list) else []
    if len(numbers) == len(labels) and all(type(number) is int for number in numbers):
        return tuple(numbers)
    return coco_category_ids() if labels == coco_labels() else None


def _from_run(path: Path) -> LoadedDetector:
    """A checkpoint of the training engine: averaged weights where there are some."""
    saved = checkpoint.load(path)
    values = saved["recipe"]
    recipe = Recipe(
        task=from_dict(DetectConfig, values["task"]),
        data=from_dict(DetectionDataConfig, values["data"]),
    )
    task = new_task(recipe, len(values["classes"]))
    task.load_state_dict(saved.get("ema") or saved["task"])
    return LoadedDetector(
        network=task.network,
        labels=tuple(values["classes"]),
        data=recipe.detect[1],
        title=str(path),
    )
