"""Export what a user names; one exporter for each kind of network."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from convnext.deploy import export_detector
from convnext.deploy.checking import compare
from convnext.deploy.tracing import check_opset
from convnext.run.detection_loading import detects, load_trained
from convnext.run.folder import say_line
from convnext.weights.detection import DetectorPreprocessing

__all__ = ["export"]

Say = Callable[[str], None]
Exporter = Callable[[str, Path, int, bool, Say], Path]


@dataclass(frozen=True)
class Kind:
    """Networks that can be exported.

    Attributes:
        title: what they are called.
        example: what one of them is named by.
        holds: whether a target is one of them.
        write: target, folder, opset, whether to check, where messages go; gives the folder.
    """

    title: str
    example: str
    holds: Callable[[str], bool]
    write: Exporter


def export(
    target: str, out: Path, *, opset: int = 18, check: bool = True, say: Say = say_line
) -> Path:
    """Write a network as graphs for ONNX runtimes, with a program that runs them.

    Args:
        target: a run, a checkpoint of one, weights, or a published name.
        out: folder, made if missing.
        opset: version of the operators.
        check: run the graphs beside the network and compare.
        say: where messages go.

    Returns:
        The folder.

    Raises:
        ValueError: the target is no network that can be exported, a package is missing, or the
            graphs do not compute what the network computes.
        OSError: something cannot be read or written.
    """
    check_opset(opset)  # before anything is loaded
    for kind in KINDS:
        if kind.holds(target):
            return kind.write(target, out, opset, check, say)
    titles = " and ".join(kind.title for kind in KINDS)
    raise ValueError(
        f"{target} cannot be exported: only {titles} can be so far; name a run, a checkpoint, "
        f"weights, or a published name such as {KINDS[0].example}"
    )


def _detector(target: str, out: Path, opset: int, check: bool, say: Say) -> Path:
    loaded = load_trained(target, torch.device("cpu"))
    data = loaded.data
    say(f"tracing {target}")
    folder = export_detector(
        loaded.network,
        out,
        labels=loaded.labels,
        preprocessing=DetectorPreprocessing(
            min_size=data.min_size,
            max_size=data.max_size,
            mean=data.channel_mean,
            std=data.channel_std,
        ),
        opset=opset,
        title=loaded.title,
    )
    if check:
        differences = compare(loaded.network, folder)
        say(f"beside PyTorch: {differences}")
        if not differences.small:
            raise ValueError(
                f"the graphs in {folder} are not the detector ({differences}); do not use them. "
                "Other versions of torch, onnxscript or onnxruntime may help"
            )
    say(f"graphs: {folder}; python {folder / 'detector_host.py'} PICTURE ... runs them")
    return folder


KINDS = (Kind("detectors", "mask_rcnn_convnext_tiny.in1k_coco", detects, _detector),)
