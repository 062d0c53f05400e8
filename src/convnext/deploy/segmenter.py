"""export_segmenter: a folder with the graph of a segmentation network and programs that run it."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim

from convnext.deploy import host_pictures, segmenter_host
from convnext.deploy.preparing import (
    check_labels,
    ready,
    refuse_windows,
    versions,
    write_folder,
)
from convnext.deploy.tracing import Format, check_format, write_onnx
from convnext.models.upernet import MIN_SIDE, UPerNet
from convnext.weights.preprocessing import SegmenterPreprocessing

__all__ = ["export_segmenter"]

ONNX = "segmenter.onnx"
OPENVINO = "segmenter.xml"
EARLIER = (ONNX, f"{ONNX}.data", OPENVINO, "segmenter.bin")
IGNORED = 255  # in maps of classes as images: pixels that count for nothing
EXAMPLE = (2, 101, 167)  # images and their size: what is traced with 1 would not be free


def export_segmenter(
    model: UPerNet,
    folder: str | Path,
    *,
    labels: Sequence[str] | None = None,
    preprocessing: SegmenterPreprocessing | None = None,
    colours: Sequence[Sequence[int]] | None = None,
    format: Format = "onnx",
    opset: int = 18,
    title: str = "",
) -> Path:
    """Write a segmentation network as a graph for ONNX runtimes or OpenVINO.

    ``segmenter.onnx``, or ``segmenter.xml`` and ``segmenter.bin``: normalised images (N, C, H, W)
    to logits (N, K, H, W); the number of images and their sizes, from 32 x 32 on, are free.
    ``segmenter.json`` says the rest, and ``segmenter_host.py`` with ``host_pictures.py`` does it,
    in numpy. Branches of large kernels are merged; the auxiliary head is left out.

    Args:
        model: it is not changed; weights are written in fp32.
        folder: made if missing; files of an earlier export are replaced, once all are written.
        labels: names of the classes; their numbers by default.
        preprocessing: what images need; the published sizes and ImageNet's statistics by default.
        colours: red, green and blue of each class, 0 to 255; greys by default.
        format: of the graph.
        opset: version of ONNX's operators, 18 to 21; OpenVINO's graph is made by way of ONNX's.
        title: what the network is, for the reader of segmenter.json.

    Returns:
        The folder, for `ExportedSegmenter`.

    Raises:
        ValueError: labels, preprocessing or colours do not fit, a package is missing, or the
            backbone cannot be traced with free sizes.
        OSError: something cannot be written.
    """
    check_format(format, opset)
    refuse_windows(model)
    config = model.config
    preprocessing = preprocessing or SegmenterPreprocessing()
    labels = check_labels(labels, preprocessing, config)
    if colours is None:
        steps = torch.linspace(0, 255, config.num_classes).tolist()
        colours = [[round(step)] * 3 for step in steps]
    if len(colours) != config.num_classes:
        raise ValueError(f"{len(colours)} colours for a network with {config.num_classes} classes")
    bare = ready(model)
    values: dict[str, Any] = {
        "title": title,
        "format": segmenter_host.FORMAT,
        "classes": labels,
        "colours": [[int(value) for value in colour] for colour in colours],
        "backbone": config.backbone,
        "graph": ONNX if format == "onnx" else OPENVINO,
        "in_chans": config.in_chans,
        "min_side": MIN_SIDE,
        **asdict(preprocessing),
        "ignore": IGNORED,
        "opset": opset,
        "versions": versions("torch", "onnx", "onnxscript", *_runtime(format)),
    }
    return write_folder(
        folder,
        "segmenter.json",
        values,
        (segmenter_host, host_pictures),
        graphs=lambda parts: _write_graph(bare, parts, format, opset),
        earlier=EARLIER,
    )


def _runtime(format: Format) -> tuple[str, ...]:
    return ("openvino",) if format == "openvino" else ()


def _write_graph(model: UPerNet, folder: Path, format: Format, opset: int) -> None:
    """Trace with free sizes.

    The smallest size that the tracer is told is twice the stride of the deepest map, for it takes
    what has one place to have one always; the graph itself serves smaller images as well.
    """
    number, height, width = EXAMPLE
    sizes = {2: Dim("rows", min=2 * MIN_SIDE), 3: Dim("columns", min=2 * MIN_SIDE)}
    write_onnx(
        model,
        {"images": torch.rand(number, model.config.in_chans, height, width)},
        ["logits"],
        shapes={"images": {0: Dim("images"), **sizes}},
        file=folder / ONNX,
        opset=opset,
    )
    if format == "openvino":
        # Its own converter of traced programs gives a graph of the same speed without the names.
        import openvino

        graph = openvino.Core().read_model(folder / ONNX)
        openvino.save_model(graph, folder / OPENVINO, compress_to_fp16=False)
        del graph  # it may hold files open
        for file in (ONNX, f"{ONNX}.data"):
            (folder / file).unlink(missing_ok=True)
