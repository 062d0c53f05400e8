"""From what a user names (run, folder, file, published weights) to a network ready to be used."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch

from convnext.data.config import DataConfig
from convnext.models.backbone import Backbone
from convnext.models.registry import is_model
from convnext.recipes.recipe import from_dict
from convnext.run.folder import RunFolder
from convnext.tasks.classify import ClassifyConfig, ClassifyTask
from convnext.train import checkpoint
from convnext.weights.create import load_pretrained
from convnext.weights.preprocessing import Preprocessing

__all__ = [
    "Loaded",
    "data_config",
    "load_encoder",
    "load_network",
    "newest_checkpoint",
    "pick_device",
    "preprocessing_of",
]


@dataclass(frozen=True)
class Loaded:
    """A network in evaluation mode, with what its inputs and outputs mean.

    Attributes:
        network: On the device.
        labels: Names of the classes; their numbers where none are known.
        named: Whether the labels are names.
        descriptions: Longer words for some labels.
        preprocessing: What images need.
        title: What it is, in a few words.
        run: The run that it comes from, if it comes from one.
    """

    network: Backbone
    labels: tuple[str, ...]
    named: bool
    descriptions: dict[str, str]
    preprocessing: Preprocessing
    title: str
    run: RunFolder | None = None


def load_network(target: str, device: torch.device) -> Loaded:
    """Load what `target` names.

    Args:
        target: A run folder, a folder of weights, a checkpoint file, a URL, or the name of a
            network with or without a tag of its published weights.
        device: Where the network goes.

    Raises:
        ValueError: There is no such thing, or it holds no classifier.
        OSError: It cannot be read.
    """
    path = Path(target).expanduser()
    run = RunFolder(path)
    if path.is_dir() and run.recipe_file.is_file():
        if (run.weights_dir / "model.safetensors").is_file():
            loaded = _load_weights(str(run.weights_dir), device)
        else:
            loaded = _load_checkpoint(newest_checkpoint(path), device)
        return Loaded(**{**vars(loaded), "title": target, "run": run})
    if path.parent.name == "checkpoints" and path.suffix == ".pt":
        return _load_checkpoint(path, device)
    return _load_weights(target, device)


def load_encoder(target: str, device: torch.device) -> tuple[Backbone, Preprocessing]:
    """The network that `target` names, frozen and without its head, and what its images need.

    Args:
        target: As for `load_network`; weights without a head, such as those of pre-training, too.
        device: Where the network goes.

    Raises:
        ValueError: There is no such thing.
        OSError: It cannot be read.
    """
    path = Path(target).expanduser()
    run = RunFolder(path)
    if path.is_dir() and run.recipe_file.is_file():
        if not (run.weights_dir / "model.safetensors").is_file():
            raise ValueError(f"{target} has no weights yet; let it train to the end")
        target = str(run.weights_dir)
    published = is_model(target)
    model, info = load_pretrained(
        True if published else target, name=target if published else None, num_classes=0
    )
    return _ready(cast(Backbone, model), device), info.preprocessing or Preprocessing()


def pick_device(name: str) -> torch.device:
    """The device that "auto", "cpu", "cuda" or "cuda:1" means.

    Raises:
        ValueError: It is unknown or not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter from a torch without CUDA
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used ({reason}); try cpu") from None
    return device


def data_config(pre: Preprocessing, in_chans: int, *, path: str, workers: int) -> DataConfig:
    """The data configuration that shows images as a network wants them."""
    return DataConfig(
        path=path,
        image_size=pre.image_size,
        in_chans=in_chans,
        mean=pre.mean,
        std=pre.std,
        interpolation=pre.interpolation,
        crop_pct=pre.crop_pct,
        crop_mode=pre.crop_mode,
        workers=workers,
    )


def preprocessing_of(data: DataConfig) -> Preprocessing:
    """What belongs to weights trained with a data configuration."""
    mode: Literal["squash", "center"] = "squash" if data.squash else "center"
    return Preprocessing(
        image_size=data.image_size,
        mean=data.channel_mean,
        std=data.channel_std,
        interpolation=data.interpolation,
        crop_pct=data.crop_pct,
        crop_mode=mode,
    )


def _load_weights(target: str, device: torch.device) -> Loaded:
    if is_model(target):
        model, info = load_pretrained(True, name=target)
    else:
        model, info = load_pretrained(target)
    network = cast(Backbone, model)
    if network.config.num_classes == 0:
        raise ValueError(f"{target} has no head, so it cannot classify; fine-tune it first")
    labels = info.labels or tuple(str(i) for i in range(network.config.num_classes))
    return Loaded(
        network=_ready(network, device),
        labels=labels,
        named=info.labels is not None,
        descriptions=info.descriptions,
        preprocessing=info.preprocessing or Preprocessing(),
        title=target,
    )


def newest_checkpoint(folder: Path) -> Path:
    """The best, else the newest checkpoint of a run that has not ended."""
    places = folder / "checkpoints"
    best = places / checkpoint.BEST
    found = best if best.is_file() else checkpoint.latest(places)
    if found is None:
        raise ValueError(f"{folder} has neither weights nor a checkpoint yet; let it train first")
    return found


def _load_checkpoint(path: Path, device: torch.device) -> Loaded:
    """A checkpoint of the training engine: averaged weights where there are some."""
    saved = checkpoint.load(path)
    recipe = saved["recipe"]
    config: ClassifyConfig = from_dict(ClassifyConfig, recipe["task"])
    data: DataConfig = from_dict(DataConfig, recipe["data"])
    task = ClassifyTask(config, num_classes=len(recipe["classes"]), in_chans=data.in_chans)
    task.load_state_dict(saved.get("ema") or saved["task"])
    return Loaded(
        network=_ready(task.network, device),
        labels=tuple(recipe["classes"]),
        named=True,
        descriptions={},
        preprocessing=preprocessing_of(data),
        title=str(path),
    )


def _ready(network: Backbone, device: torch.device) -> Backbone:
    network.eval().requires_grad_(False).to(device)
    network.to(memory_format=cast(Any, torch.channels_last))
    return network
