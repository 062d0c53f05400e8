"""Export what a user names; one exporter for each kind of network."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from convnext.deploy import export_detector, export_segmenter
from convnext.deploy.checking import Differences, compare_detector, compare_segmenter
from convnext.deploy.tracing import Format, check_format
from convnext.report.overlay import palette
from convnext.run.detection_loading import load_trained
from convnext.run.folder import say_line
from convnext.run.segmentation_loading import load_trained_segmenter, preprocessing_of
from convnext.run.target import kind_of_target
from convnext.weights.preprocessing import DetectorPreprocessing
from convnext.weights.systems.kinds import DETECTOR, SEGMENTER

__all__ = ["export"]

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be written.

    Attributes:
        target: a run, a checkpoint of one, weights, or a published name.
        out: folder.
        format: of the graphs.
        opset: version of ONNX's operators.
        check: whether to compare with the network.
        say: where messages go.
    """

    target: str
    out: Path
    format: Format
    opset: int
    check: bool
    say: Say

    def compared(self, differences: Differences) -> None:
        """Say them.

        Raises:
            ValueError: they are too large.
        """
        self.say(f"beside PyTorch: {differences}")
        if not differences.small:
            raise ValueError(
                f"the graphs in {self.out} are not the network ({differences}); do not use them. "
                "Other versions of torch, onnxscript or the runtime may help"
            )


@dataclass(frozen=True)
class Exporter:
    """How one kind of network is exported.

    Attributes:
        titles: what such networks are called.
        example: what one of them is named by.
        formats: that they can be written in.
        write: writes one, and gives the name of the program that runs it.
    """

    titles: str
    example: str
    formats: tuple[Format, ...]
    write: Callable[[Request], str]


def export(
    target: str,
    out: Path,
    *,
    format: Format = "onnx",
    opset: int = 18,
    check: bool = True,
    say: Say = say_line,
) -> Path:
    """Write a network as graphs for other runtimes, with a program that runs them.

    Args:
        target: a run, a checkpoint of one, weights, or a published name.
        out: folder, made if missing.
        format: of the graphs.
        opset: version of ONNX's operators.
        check: run the graphs beside the network and compare.
        say: where messages go.

    Returns:
        The folder.

    Raises:
        ValueError: the target is no network that can be exported in this format, a package is
            missing, or the graphs do not compute what the network computes.
        OSError: something cannot be read or written.
    """
    check_format(format, opset)  # before anything is loaded
    out = out.expanduser()
    kind = kind_of_target(target)
    if kind is None:
        titles = " and ".join(exporter.titles for exporter in EXPORTERS.values())
        raise ValueError(
            f"{target} cannot be exported: only {titles} can be so far; name a run, a checkpoint, "
            f"weights, or a published name such as {EXPORTERS[DETECTOR].example}"
        )
    exporter = EXPORTERS[kind]
    if format not in exporter.formats:
        raise ValueError(
            f"{target}: {exporter.titles} are exported as {', '.join(exporter.formats)}, "
            f"not {format}"
        )
    program = exporter.write(
        Request(target=target, out=out, format=format, opset=opset, check=check, say=say)
    )
    say(f"graphs: {out}; python {out / program} PICTURE ... runs them")
    return out


def _detector(request: Request) -> str:
    loaded = load_trained(request.target, torch.device("cpu"))
    data = loaded.data
    request.say(f"tracing {request.target}")
    export_detector(
        loaded.network,
        request.out,
        labels=loaded.labels,
        preprocessing=DetectorPreprocessing(
            min_size=data.min_size,
            max_size=data.max_size,
            mean=data.channel_mean,
            std=data.channel_std,
        ),
        opset=request.opset,
        title=loaded.title,
    )
    if request.check:
        request.compared(compare_detector(loaded.network, request.out))
    return "detector_host.py"


def _segmenter(request: Request) -> str:
    loaded = load_trained_segmenter(request.target, torch.device("cpu"))
    request.say(f"tracing {request.target}")
    export_segmenter(
        loaded.network,
        request.out,
        labels=loaded.labels,
        preprocessing=preprocessing_of(loaded.data),
        colours=palette(len(loaded.labels)).tolist(),
        format=request.format,
        opset=request.opset,
        title=loaded.title,
    )
    if request.check:
        request.compared(compare_segmenter(loaded.network, request.out))
    return "segmenter_host.py"


EXPORTERS = {
    DETECTOR: Exporter("detectors", "mask_rcnn_convnext_tiny.in1k_coco", ("onnx",), _detector),
    SEGMENTER: Exporter(
        "segmentation networks",
        "upernet_convnext_tiny.in1k_ade20k",
        ("onnx", "openvino"),
        _segmenter,
    ),
}
