"""What any network on a backbone needs before it is traced, and how its folder is written."""

import copy
import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, TypeVar

import torch

import convnext
from convnext.models.backbone import Backbone
from convnext.models.large_kernel import merge
from convnext.models.mask_rcnn import MaskRCNN
from convnext.models.upernet import UPerNet
from convnext.weights.preprocessing import FitPreprocessing

__all__ = ["check_labels", "ready", "refuse_windows", "versions", "write_folder"]

N = TypeVar("N", MaskRCNN, UPerNet)


def ready(model: N) -> N:
    """A copy on the CPU in fp32 and evaluation mode, branches of large kernels merged."""
    bare = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    if isinstance(body := bare.backbone.body, Backbone):
        bare.backbone.body = merge(body)
    # Weights of convolutions may lie with channels last; graphs have them in one order.
    return bare.to(memory_format=torch.contiguous_format)


def refuse_windows(model: MaskRCNN | UPerNet) -> None:
    """Such networks of timm do not fail: the tracer fills all memory with terms of sizes.

    Raises:
        ValueError: the backbone attends within windows.
    """
    kinds = {type(module).__name__ for module in model.backbone.modules()}
    if windows := sorted(kind for kind in kinds if "Window" in kind or "Partition" in kind):
        raise ValueError(
            f"{model.config.backbone} attends within windows ({windows[0]}), which cannot be "
            "traced with free sizes; export a network on a convolutional backbone"
        )


class _Config(Protocol):
    @property
    def num_classes(self) -> int: ...
    @property
    def in_chans(self) -> int: ...


def check_labels(
    labels: Sequence[str] | None, preprocessing: FitPreprocessing, config: _Config
) -> list[str]:
    """Names of the classes, by default their numbers.

    Raises:
        ValueError: labels or preprocessing do not fit the network.
    """
    labels = [str(i) for i in range(config.num_classes)] if labels is None else list(labels)
    if len(labels) != config.num_classes:
        raise ValueError(f"{len(labels)} labels for a network with {config.num_classes} classes")
    if len(preprocessing.mean) != config.in_chans:
        raise ValueError(
            f"preprocessing has {len(preprocessing.mean)} channels, the network has "
            f"{config.in_chans}; give mean and std one value per channel"
        )
    return labels


def versions(*packages: str) -> dict[str, str]:
    """Of this package and of others that had a part in the graphs."""
    found = {name: importlib.metadata.version(name) for name in packages}
    return {"convnext": convnext.__version__, **found}


def write_folder(
    folder: str | Path,
    settings: str,
    values: Mapping[str, Any],
    programs: Iterable[ModuleType],
    *,
    graphs: Callable[[Path], None],
    earlier: Iterable[str],
) -> Path:
    """Write an export that replaces an earlier one only when it is complete.

    Args:
        folder: made if missing.
        settings: name of the JSON file.
        values: what it says.
        programs: Python files that run the graphs.
        graphs: writes the graphs into a folder.
        earlier: names of graphs that an earlier export may have had; they are removed.

    Raises:
        ValueError: the folder is a file, or the graphs cannot be made.
        OSError: something cannot be written.
    """
    target = Path(folder).expanduser()
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target} is no folder; choose another one to export to")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export") as temporary:
        parts = Path(temporary)
        graphs(parts)
        for program in programs:
            assert program.__file__ is not None
            shutil.copyfile(program.__file__, parts / Path(program.__file__).name)
        text = json.dumps(values, indent=2, ensure_ascii=False)
        (parts / settings).write_text(text + "\n", encoding="utf-8")
        target.mkdir(exist_ok=True)
        for name in (settings, *earlier):
            (target / name).unlink(missing_ok=True)
        for part in sorted(parts.iterdir(), key=lambda p: p.name == settings):  # that one last
            shutil.move(part, target / part.name)
    return target
