"""Detectors to use: from a run, a checkpoint, a folder of weights, a name."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open

from convnext.data.config import DetectionDataConfig
from convnext.models.mask_rcnn import MaskRCNN, detector_config
from convnext.models.registry import is_detector_name
from convnext.recipes.recipe import Recipe, from_dict
from convnext.run.folder import RunFolder
from convnext.run.loading import newest_checkpoint
from convnext.tasks.detect import DetectConfig, DetectTask
from convnext.train import checkpoint
from convnext.weights.checkpoint import DETECTOR_HEADS, weight_file
from convnext.weights.detection import DetectorPreprocessing, is_detector, load_detector
from convnext.weights.labels import coco_category_ids, coco_labels
from convnext.weights.sources import resolve
from convnext.weights.timm_backbone import TIMM, TimmBackbone
from convnext.weights.unwrapping import unwrap

__all__ = ["LoadedDetector", "detects", "load_trained", "new_task"]


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


def detects(target: str) -> bool:
    """Whether a target names a detector and not a classifier.

    Args:
        target: a run, a checkpoint of one, weights, a URL of some, which are downloaded once, or a
            published name.

    Raises:
        ValueError: it is a file that holds no weights.
        OSError: it cannot be read, or there is no network.
    """
    if target.startswith(("http://", "https://")):
        return _holds_detector(resolve(target).path)
    path = Path(target).expanduser()
    run = RunFolder(path)
    if path.is_dir() and run.recipe_file.is_file():
        return isinstance(Recipe.from_file(run.recipe_file).task, DetectConfig)
    if _is_checkpoint(path):
        return "body_args" in checkpoint.load(path)["recipe"]["task"]
    if path.exists():
        return _holds_detector(path)
    return is_detector_name(target)


def _holds_detector(path: Path) -> bool:
    """`is_detector`; of a safetensors file only the names of the tensors are read."""
    file = weight_file(path) if path.is_dir() else path
    if file.suffix != ".safetensors":
        return is_detector(file)
    try:
        with safe_open(file, framework="pt") as opened:
            names = dict.fromkeys(opened.keys(), torch.empty(0))
    except (SafetensorError, OSError):
        return is_detector(file)  # it says what is wrong with the file
    return any(name.startswith(DETECTOR_HEADS) for name in unwrap(names, file).state)


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
    path = Path(target).expanduser()
    run = RunFolder(path)
    if path.is_dir() and run.recipe_file.is_file():
        weights = run.weights_dir
        ended = (weights / "model.safetensors").is_file()
        found = _from_weights(str(weights)) if ended else _from_run(newest_checkpoint(path))
        found = replace(found, title=target, run=run)
    else:
        found = _from_run(path) if _is_checkpoint(path) else _from_weights(target)
    found.network.eval().requires_grad_(False).to(device)
    found.network.to(memory_format=cast(Any, torch.channels_last))
    return found


def _is_checkpoint(path: Path) -> bool:
    return path.parent.name == "checkpoints" and path.suffix == ".pt" and path.is_file()


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
