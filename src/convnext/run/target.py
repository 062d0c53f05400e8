"""What a user names: a classifier, a detector or a segmentation network, and where it is."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from convnext.models.registry import is_detector_name, is_segmenter_name
from convnext.recipes.recipe import Recipe
from convnext.run.folder import RunFolder
from convnext.run.loading import newest_checkpoint
from convnext.tasks.detect import DetectConfig
from convnext.tasks.segment import SegmentConfig
from convnext.train import checkpoint
from convnext.weights.checkpoint import open_weights, weight_file
from convnext.weights.sources import resolve
from convnext.weights.systems.kinds import DETECTOR, SEGMENTER, Kind, kind_of
from convnext.weights.unwrapping import unwrap

__all__ = ["is_run_checkpoint", "kind_of_target", "load_target"]

_BY_TASK = {DetectConfig: DETECTOR, SegmentConfig: SEGMENTER}
_TELLING = {"aux_weight": SEGMENTER, "masks": DETECTOR}  # fields that only one kind of task has


def kind_of_target(target: str) -> Kind | None:
    """The kind of system that a target names; None of a classifier or an encoder.

    Args:
        target: a run, a checkpoint of one, weights, a URL of some, which are downloaded once, or a
            published name.

    Raises:
        ValueError: it is a file that holds no weights.
        OSError: it cannot be read, or there is no network.
    """
    if target.startswith(("http://", "https://")):
        return _of_weights(resolve(target).path)
    path = Path(target).expanduser()
    run = RunFolder(path)
    if path.is_dir() and run.recipe_file.is_file():
        return _BY_TASK.get(type(Recipe.from_file(run.recipe_file).task))
    if is_run_checkpoint(path):
        task = checkpoint.load(path)["recipe"]["task"]
        return next((kind for name, kind in _TELLING.items() if name in task), None)
    if path.exists():
        return _of_weights(path)
    if is_segmenter_name(target):
        return SEGMENTER
    return DETECTOR if is_detector_name(target) else None


class _Loaded(Protocol):
    """What is loaded: a network and the run that it comes from."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def network(self) -> nn.Module:
        """The network."""


L = TypeVar("L", bound=_Loaded)


def load_target(
    target: str,
    device: torch.device,
    from_weights: Callable[[str], L],
    from_checkpoint: Callable[[Path], L],
) -> L:
    """What a target names, in evaluation mode: of a run its weights, or its newest checkpoint.

    Args:
        target: a run, a checkpoint of one, weights, or a published name.
        device: where its network goes.
        from_weights: loads weights or a published name.
        from_checkpoint: loads a checkpoint of the training engine.

    Raises:
        ValueError: there is no such thing.
        OSError: it cannot be read.
    """
    path = Path(target).expanduser()
    run = RunFolder(path)
    if path.is_dir() and run.recipe_file.is_file():
        weights = run.weights_dir
        if (weights / "model.safetensors").is_file():
            found = from_weights(str(weights))
        else:
            found = from_checkpoint(newest_checkpoint(path))
        found = replace(found, title=target, run=run)
    elif is_run_checkpoint(path):
        found = from_checkpoint(path)
    else:
        found = from_weights(target)
    found.network.eval().requires_grad_(False).to(device)
    found.network.to(memory_format=cast(Any, torch.channels_last))
    return found


def is_run_checkpoint(path: Path) -> bool:
    """Whether a path is that of a checkpoint of the training engine."""
    return path.parent.name == "checkpoints" and path.suffix == ".pt" and path.is_file()


def _of_weights(path: Path) -> Kind | None:
    """The kind of a file or folder; of a safetensors file only the names of tensors are read."""
    file = weight_file(path) if path.is_dir() else path
    if file.suffix != ".safetensors":
        return open_weights(file).kind
    try:
        with safe_open(file, framework="pt") as opened:
            names = dict.fromkeys(opened.keys(), torch.empty(0))
    except (SafetensorError, OSError):
        return open_weights(file).kind  # it says what is wrong with the file
    return kind_of(unwrap(names, file).state)
