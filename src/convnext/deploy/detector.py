"""export_detector: a folder with the graphs of a detector and a program that runs them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from convnext.deploy import detector_host, host_pictures
from convnext.deploy.graphs import BoxGraph, DenseGraph, MaskGraph
from convnext.deploy.preparing import (
    check_labels,
    ready,
    refuse_windows,
    versions,
    write_folder,
)
from convnext.deploy.tracing import check_format, write_onnx
from convnext.models.detection import masks, nms, rpn
from convnext.models.detection.boxes import MAX_LOG_RATIO
from convnext.models.detection.rpn import DIVISOR
from convnext.models.map_backbone import REDUCTIONS
from convnext.models.mask_rcnn import MaskRCNN
from convnext.weights.preprocessing import DetectorPreprocessing

__all__ = ["export_detector"]

LEVELS = ("p2", "p3", "p4", "p5")
FILES = {"dense": "dense.onnx", "roi": "roi.onnx", "mask": "mask.onnx"}
EXAMPLE_IMAGES, EXAMPLE_BOXES = 2, 7  # a dimension of 1 would not be free


def export_detector(
    model: MaskRCNN,
    folder: str | Path,
    *,
    labels: Sequence[str] | None = None,
    preprocessing: DetectorPreprocessing | None = None,
    opset: int = 18,
    example_size: tuple[int, int] = (128, 160),
    title: str = "",
) -> Path:
    """Write a detector as graphs for ONNX runtimes.

    ``dense.onnx``: images to levels P2..P5 and the proposal network's outputs. ``roi.onnx``: levels
    and proposals to probabilities and boxes, through all stages. ``mask.onnx``: levels, boxes and
    labels to masks of 28 x 28; a detector without masks has none. ``detector.json`` says the rest,
    and ``detector_host.py`` with ``host_pictures.py`` does it, in numpy. The sizes of images
    (multiples of 32), their number and the number of boxes are free. Branches of large kernels are
    merged.

    Args:
        model: it is not changed; weights are written in fp32.
        folder: made if missing; files of an earlier export are replaced, once all are written.
        labels: names of the classes; their numbers by default.
        preprocessing: what images need; the published sizes and ImageNet's statistics by default.
        opset: version of the operators, 18 to 21.
        example_size: height and width to trace with, multiples of 32 and not below 64; others
            work as well.
        title: what the detector is, for the reader of detector.json.

    Returns:
        The folder, for `OnnxDetector`.

    Raises:
        ValueError: labels, preprocessing or sizes do not fit, a package is missing, or the backbone
            cannot be traced with free sizes.
        OSError: something cannot be written.
    """
    check_format("onnx", opset)
    if any(side % DIVISOR or side < 2 * DIVISOR for side in example_size):
        raise ValueError(f"example_size {example_size}: sides must be multiples of 32, at least 64")
    refuse_windows(model)
    preprocessing = preprocessing or DetectorPreprocessing()
    labels = check_labels(labels, preprocessing, model.config)
    bare = ready(model)
    return write_folder(
        folder,
        "detector.json",
        {"title": title, **_settings(bare, labels, preprocessing, opset)},
        (detector_host, host_pictures),
        graphs=lambda parts: _write_graphs(bare, parts, opset, example_size),
        earlier=[name for file in FILES.values() for name in (file, f"{file}.data")],
    )


def _write_graphs(model: MaskRCNN, folder: Path, opset: int, size: tuple[int, int]) -> None:
    """Trace all parts with free sizes."""
    example, free = _examples(model, size)
    numbers = range(len(rpn.STRIDES))
    dense = [*LEVELS, *(f"{what}{i}" for what in ("logits", "deltas") for i in numbers)]
    parts: dict[str, tuple[nn.Module, tuple[str, ...], list[str]]] = {
        "dense": (DenseGraph(model), ("images",), dense),
        "roi": (BoxGraph(model), (*LEVELS, "rois", "sizes"), ["probabilities", "boxes"]),
        "mask": (MaskGraph(model), (*LEVELS, "rois", "labels"), ["masks"]),
    }
    for name, (module, inputs, outputs) in parts.items():
        if name == "mask" and not model.config.masks:
            continue
        write_onnx(
            module.eval(),
            {key: example[key] for key in inputs},
            outputs,
            shapes=free,
            file=folder / FILES[name],
            opset=opset,
        )


def _examples(model: MaskRCNN, size: tuple[int, int]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An example of every input, and which of its dimensions are free."""
    (height, width), config = size, model.config
    images, rows, columns, boxes = map(Dim, ("images", "rows", "columns", "boxes"))
    box = torch.tensor([[0.0, 2.0, 3.0, 40.0, 50.0]])
    example = {
        "images": torch.rand(EXAMPLE_IMAGES, config.in_chans, height, width),
        "sizes": torch.tensor([[float(height), float(width)]]).repeat(EXAMPLE_IMAGES, 1),
        "rois": box.repeat(EXAMPLE_BOXES, 1),
        "labels": torch.zeros(EXAMPLE_BOXES, dtype=torch.int64),
    }
    free: dict[str, Any] = {
        "images": {0: images, 2: DIVISOR * rows, 3: DIVISOR * columns},
        "sizes": {0: images},
        "rois": {0: boxes},
        "labels": {0: boxes},
    }
    for name, stride in zip(LEVELS, REDUCTIONS, strict=True):
        cells = (height // stride, width // stride)
        example[name] = torch.rand(EXAMPLE_IMAGES, config.fpn_dim, *cells)
        share = DIVISOR // stride
        free[name] = {0: images, 2: share * rows, 3: share * columns}
    return example, free


def _settings(
    model: MaskRCNN,
    labels: Sequence[str],
    preprocessing: DetectorPreprocessing,
    opset: int,
) -> dict[str, Any]:
    """What `detector_host.py` has to know; the numbers are those of the models' code."""
    config, proposing = model.config, model.rpn_head.config
    return {
        "format": detector_host.FORMAT,
        "classes": list(labels),
        "backbone": config.backbone,
        "cascade": config.cascade,
        "graphs": {k: v for k, v in FILES.items() if k != "mask" or config.masks},
        "in_chans": config.in_chans,
        "min_size": preprocessing.min_size,
        "max_size": preprocessing.max_size,
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        "divisor": DIVISOR,
        "anchors": {
            "scale": proposing.anchor_scale,
            "strides": rpn.STRIDES,
            "ratios": [0.5, 1.0, 2.0],
        },
        "proposals": {
            "per_level": proposing.per_level[1],
            "most": proposing.proposals[1],
            "nms_iou": rpn.NMS_IOU,
            "max_log_ratio": MAX_LOG_RATIO,
        },
        "detection": {
            "score_threshold": config.score_threshold,
            "most": config.max_detections,
            "nms_iou": nms.NMS_IOU,
            "soft_nms": config.soft_nms,
        },
        "mask": {"side": masks.MASK_SIDE, "threshold": masks.THRESHOLD},
        "opset": opset,
        "versions": versions("torch", "torchvision", "onnx", "onnxscript"),
    }
