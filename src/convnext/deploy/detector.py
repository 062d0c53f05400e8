"""export_detector: a folder with the graphs of a detector and a program that runs them."""

import copy
import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

import convnext
from convnext.deploy import detector_host
from convnext.deploy.graphs import BoxGraph, DenseGraph, MaskGraph
from convnext.deploy.tracing import check_opset, write_onnx
from convnext.models.backbone import Backbone
from convnext.models.detection import masks, nms, rpn
from convnext.models.detection.boxes import MAX_LOG_RATIO
from convnext.models.large_kernel import merge
from convnext.models.mask_rcnn import REDUCTIONS, MaskRCNN
from convnext.weights.detection import DetectorPreprocessing

__all__ = ["export_detector", "ready"]

LEVELS = ("p2", "p3", "p4", "p5")
EXAMPLE_SIZE = (128, 160)  # free in the graphs; no side may be one cell of the deepest level
EXAMPLE_IMAGES, EXAMPLE_BOXES = 2, 7


def export_detector(
    model: MaskRCNN,
    folder: str | Path,
    *,
    labels: Sequence[str] | None = None,
    preprocessing: DetectorPreprocessing | None = None,
    opset: int = 18,
    title: str = "",
) -> Path:
    """Write a detector as graphs for ONNX runtimes.

    What comes out: ``dense.onnx`` (images to levels P2..P5 and the proposal network's outputs),
    ``boxes.onnx`` (levels and proposals to probabilities and boxes, all stages), ``masks.onnx``
    (levels, boxes and labels to masks of 28 x 28; not of a detector without masks),
    ``detector.json`` and ``detector_host.py``, which does the rest with numpy. The sizes of images
    (multiples of 32), their number and the number of boxes are free. Branches of large kernels are
    merged.

    Args:
        model: it is not changed; weights are written in fp32.
        folder: made if missing; files of an earlier export are replaced, once all are written.
        labels: names of the classes; their numbers by default.
        preprocessing: what images need; the published sizes and ImageNet's statistics by default.
        opset: version of the operators, 18 to 23.
        title: what the detector is, for the reader of detector.json.

    Returns:
        The folder, for `OnnxDetector`.

    Raises:
        ValueError: labels or preprocessing do not fit, a package is missing, or the backbone cannot
            be traced with free sizes.
        OSError: something cannot be written.
    """
    check_opset(opset)
    config = model.config
    preprocessing = preprocessing or DetectorPreprocessing()
    labels = [str(i) for i in range(config.num_classes)] if labels is None else list(labels)
    if len(labels) != config.num_classes:
        raise ValueError(f"{len(labels)} labels for a detector with {config.num_classes} classes")
    if len(preprocessing.mean) != config.in_chans:
        raise ValueError(
            f"preprocessing has {len(preprocessing.mean)} channels, the detector has "
            f"{config.in_chans}; give mean and std one value per channel"
        )
    target = Path(folder).expanduser()
    target.mkdir(parents=True, exist_ok=True)
    bare = ready(model)
    with tempfile.TemporaryDirectory(dir=target, prefix=".export") as temporary:
        parts = Path(temporary)
        graphs = _write_graphs(bare, parts, opset)
        settings = _settings(bare, labels, preprocessing, graphs, opset)
        text = json.dumps({"title": title, **settings}, indent=2, ensure_ascii=False)
        shutil.copyfile(detector_host.__file__, parts / "detector_host.py")
        (parts / "detector.json").write_text(text + "\n", encoding="utf-8")
        for old in target.glob("*.onnx*"):
            old.unlink()  # a detector without masks must not keep those of another
        for part in sorted(parts.iterdir(), key=lambda p: p.suffix == ".json"):  # that one last
            part.replace(target / part.name)
    return target


def ready(model: MaskRCNN) -> MaskRCNN:
    """A copy on the CPU in fp32 and evaluation mode, branches of large kernels merged."""
    bare = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    if isinstance(body := bare.backbone.body, Backbone):
        bare.backbone.body = merge(body)
    # Weights of convolutions may lie with channels last; graphs have them in one order.
    return bare.to(memory_format=torch.contiguous_format)


def _write_graphs(model: MaskRCNN, folder: Path, opset: int) -> dict[str, str]:
    """Trace all parts; returns the file of each."""
    height, width = EXAMPLE_SIZE
    images, boxes = Dim("images"), Dim("boxes")
    rows, columns = Dim("rows"), Dim("columns")
    maps, free = {}, {}
    for name, stride in zip(LEVELS, REDUCTIONS, strict=True):
        dim, share = model.config.fpn_dim, REDUCTIONS[-1] // stride
        maps[name] = torch.rand(EXAMPLE_IMAGES, dim, height // stride, width // stride)
        free[name] = {0: images, 2: share * rows, 3: share * columns}
    free |= {"rois": {0: boxes}, "labels": {0: boxes}, "sizes": {0: images}}
    free |= {"images": {0: images, 2: REDUCTIONS[-1] * rows, 3: REDUCTIONS[-1] * columns}}
    rois = torch.tensor([[0.0, 2.0, 3.0, 40.0, 50.0]]).repeat(EXAMPLE_BOXES, 1)
    sizes = torch.tensor([[float(height), float(width)]]).repeat(EXAMPLE_IMAGES, 1)
    classes = torch.zeros(EXAMPLE_BOXES, dtype=torch.int64)
    pictures = torch.rand(EXAMPLE_IMAGES, model.config.in_chans, height, width)
    count = len(rpn.STRIDES)
    dense = [*LEVELS, *(f"{what}{i}" for what in ("logits", "deltas") for i in range(count))]
    parts: dict[str, tuple[nn.Module, dict[str, Tensor], list[str]]] = {
        "dense": (DenseGraph(model), {"images": pictures}, dense),
        "boxes": (
            BoxGraph(model),
            {**maps, "rois": rois, "sizes": sizes},
            ["probabilities", "boxes"],
        ),
    }
    if model.config.masks:
        inputs = {**maps, "rois": rois, "labels": classes}
        parts["masks"] = (MaskGraph(model), inputs, ["masks"])
    for name, (module, inputs, outputs) in parts.items():
        file = folder / f"{name}.onnx"
        write_onnx(module.eval(), inputs, outputs, shapes=free, file=file, opset=opset)
    return {name: f"{name}.onnx" for name in parts}


def _settings(
    model: MaskRCNN,
    labels: Sequence[str],
    preprocessing: DetectorPreprocessing,
    graphs: dict[str, str],
    opset: int,
) -> dict[str, Any]:
    """What `detector_host.py` has to know; the numbers are those of the models' code."""
    config, proposing = model.config, model.rpn_head.config
    packages = ("torch", "torchvision", "onnx", "onnxscript")
    return {
        "format": detector_host.FORMAT,
        "classes": list(labels),
        "backbone": config.backbone,
        "cascade": config.cascade,
        "graphs": graphs,
        "in_chans": config.in_chans,
        "min_size": preprocessing.min_size,
        "max_size": preprocessing.max_size,
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        "divisor": rpn.DIVISOR,
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
        "versions": {
            "convnext": convnext.__version__,
            **{name: importlib.metadata.version(name) for name in packages},
        },
    }
