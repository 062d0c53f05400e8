"""Detect objects with exported graphs; needs numpy, onnxruntime and Pillow, nothing else.

This file works where it is and also, with `host_pictures.py`, beside the graphs:

    from detector_host import OnnxDetector
    found = OnnxDetector("folder with detector.json")("street.jpg")

    python detector_host.py street.jpg ...      (one JSON object a picture)

The graphs compute features, scores and deltas; here is the rest: the size of the image, anchors,
the choice of boxes, masks in the picture. Boxes are x1, y1, x2, y2 in pixels, x2 - x1 is the width.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING or __package__:
    from convnext.deploy.host_pictures import (
        Floats,
        Pixels,
        fit_size,
        normalise,
        read_settings,
        resize,
        to_pixels,
    )
else:  # beside the graphs
    from host_pictures import (
        Floats,
        Pixels,
        fit_size,
        normalise,
        read_settings,
        resize,
        to_pixels,
    )

__all__ = ["Found", "OnnxDetector", "anchors", "decode", "nms", "paste"]

FORMAT = 1  # of detector.json
Ints = NDArray[np.int64]


class Found(TypedDict):
    """What was found in a picture, best first.

    boxes (d, 4) float32 in pixels of the picture, scores (d,) float32, labels (d,) int64, numbers
    of `OnnxDetector.classes`, masks (d, H, W) bool, or None of a detector without masks.
    """

    boxes: Floats
    scores: Floats
    labels: Ints
    masks: NDArray[np.bool_] | None


class OnnxDetector:
    """An exported detector.

    Args:
        folder: holds detector.json and the graphs.
        providers: of onnxruntime, in the order of preference.
        threads: for a graph; 0 = as many as there are cores.

    Attributes:
        classes: names of the classes, in the order of the labels.
        settings: what detector.json says.

    Raises:
        ValueError: the folder is no exported detector, or one of a later version.
        OSError: a file cannot be read.
        ImportError: onnxruntime is missing.
    """

    def __init__(
        self,
        folder: str | Path = ".",
        *,
        providers: Sequence[str] = ("CPUExecutionProvider",),
        threads: int = 0,
    ) -> None:
        self.folder = Path(folder)
        self.settings = read_settings(self.folder / "detector.json", FORMAT, "detector")
        self.classes: list[str] = self.settings["classes"]
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError(
                "running a graph needs onnxruntime: pip install onnxruntime"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._graphs = {
            part: onnxruntime.InferenceSession(
                self.folder / file, options, providers=list(providers)
            )
            for part, file in self.settings["graphs"].items()
        }

    def __call__(self, picture: Image.Image | Pixels | str | Path) -> Found:
        """Find objects.

        Args:
            picture: a file, a picture of Pillow, or its pixels (H, W, C) uint8, RGB.

        Raises:
            ValueError: pixels of another form.
            OSError: a file is not there or no picture.
        """
        pixels = to_pixels(picture, self.settings["in_chans"])
        boxes, scores, labels, grids = self.detect(pixels)
        masks = None
        if grids is not None:
            masks = np.zeros((len(boxes), *pixels.shape[:2]), bool)
            for mask, grid, box in zip(masks, grids, boxes, strict=True):
                paste(grid, box, mask, self.settings["mask"]["threshold"])
        return {"boxes": boxes, "scores": scores, "labels": labels, "masks": masks}

    def detect(self, pixels: Pixels) -> tuple[Floats, Floats, Ints, Floats | None]:
        """As calling it, but masks are (d, 28, 28) probabilities in a grid over each box."""
        settings = self.settings
        height, width = pixels.shape[:2]
        size = fit_size(height, width, settings["min_size"], settings["max_size"])
        image = normalise(resize(pixels, *size), settings)
        levels, outputs = self._dense(image)
        proposals = self._proposals(outputs, size)
        sizes = np.array([size], np.float32)
        scored = self.run("roi", **levels, rois=_with_image(proposals), sizes=sizes)
        shrunk = np.array(size, np.float32) / np.array([height, width], np.float32)
        ratio: Floats = np.tile(shrunk[::-1], 2).astype(np.float32)  # x, y, x, y
        best = best_of_classes(
            scored["boxes"] / ratio, scored["probabilities"], settings["detection"]
        )
        if "mask" not in self._graphs:
            return (*best, None)
        rois = _with_image(best[0] * ratio)
        return (*best, self.run("mask", **levels, rois=rois, labels=best[2])["masks"])

    def run(self, graph: str, **inputs: NDArray[Any]) -> dict[str, Floats]:
        """What one of the graphs "dense", "roi" and "mask" makes of its inputs, by name."""
        session = self._graphs[graph]
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, inputs), strict=True))

    def _dense(self, image: Floats) -> tuple[dict[str, Floats], list[tuple[Floats, Floats]]]:
        """P2..P5 by name; logits (h, w, 3) and deltas (h, w, 12) of P2..P6."""
        found = self.run("dense", images=image[None])
        numbers = range(len(self.settings["anchors"]["strides"]))
        outputs = [
            (found[f"logits{i}"][0].transpose(1, 2, 0), found[f"deltas{i}"][0].transpose(1, 2, 0))
            for i in numbers
        ]
        return {name: found[name] for name in ("p2", "p3", "p4", "p5")}, outputs

    def _proposals(self, outputs: list[tuple[Floats, Floats]], size: tuple[int, int]) -> Floats:
        """Boxes (n, 4) that may hold an object, best first."""
        start, rule = self.settings["anchors"], self.settings["proposals"]
        found, scores = [], []
        for (logits, deltas), stride in zip(outputs, start["strides"], strict=True):
            cells = anchors(logits.shape[:2], stride, start["scale"], start["ratios"])
            best = np.argsort(-logits.reshape(-1), kind="stable")[: rule["per_level"]]
            moved = decode(cells[best], deltas.reshape(-1, 4)[best], rule["max_log_ratio"])
            boxes, score = clip(moved, size), _sigmoid(logits.reshape(-1)[best])
            keep = nms(boxes, score, rule["nms_iou"])
            found.append(boxes[keep])
            scores.append(score[keep])
        order = np.argsort(-np.concatenate(scores), kind="stable")[: rule["most"]]
        chosen: Floats = np.concatenate(found)[order]
        return chosen


# --- boxes ----------------------------------------------------------------------------------


def anchors(grid: tuple[int, ...], stride: int, scale: float, ratios: Sequence[float]) -> Floats:
    """Boxes of one level to begin with, (rows * columns * ratios, 4).

    Centres at multiples of the stride, sides stride * scale * (1/√r, √r) for r = height / width.
    """
    roots = np.sqrt(np.array(ratios, np.float32))
    half = np.stack([1 / roots, roots], 1) * np.float32(0.5 * stride * scale)
    y, x = np.mgrid[: grid[0], : grid[1]].astype(np.float32) * stride
    centres = np.stack([x, y], -1)[:, :, None]
    return np.concatenate([centres - half, centres + half], -1).reshape(-1, 4)


def decode(boxes: Floats, deltas: Floats, max_log_ratio: float) -> Floats:
    """Boxes (n, 4) moved by deltas (n, 4): shifts in sides, logarithms of factors of sides."""
    low, high = boxes[:, :2], boxes[:, 2:]
    side = high - low
    centre = (low + high) / 2 + side * deltas[:, :2]
    half = side * np.exp(np.clip(deltas[:, 2:], -max_log_ratio, max_log_ratio)) / 2
    return np.concatenate([centre - half, centre + half], 1)


def clip(boxes: Floats, size: tuple[int, int]) -> Floats:
    """Boxes (n, 4) cut at the border of an image of (height, width)."""
    return np.clip(boxes, 0, np.array([size[1], size[0]] * 2, boxes.dtype))


def _overlaps(box: Floats, boxes: Floats) -> Floats:
    """Intersection over union of a box (4,) with boxes (n, 4)."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    common = np.maximum(high - low, 0).prod(1)
    union = (box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(1) - common
    result: Floats = common / np.maximum(union, 1e-6)
    return result


def nms(boxes: Floats, scores: Floats, iou: float) -> Ints:
    """Rows of the boxes that no better one overlaps by more than `iou`, best first."""
    waiting = np.argsort(-scores, kind="stable")
    keep = []
    while len(waiting):
        best, waiting = waiting[0], waiting[1:]
        keep.append(best)
        waiting = waiting[_overlaps(boxes[best], boxes[waiting]) <= iou]
    return np.array(keep, np.int64)


def soft_nms(boxes: Floats, scores: Floats, iou: float) -> Floats:
    """Scores times (1 - IoU) for each better box that overlaps by more than `iou`."""
    scores, waiting = scores.copy(), np.arange(len(scores))
    while len(waiting):
        best = waiting[np.argmax(scores[waiting])]
        waiting = waiting[waiting != best]
        overlaps = _overlaps(boxes[best], boxes[waiting])
        scores[waiting] *= np.where(overlaps > iou, 1 - overlaps, np.float32(1))
    return scores


def best_of_classes(
    boxes: Floats, probabilities: Floats, rule: dict[str, Any]
) -> tuple[Floats, Floats, Ints]:
    """Boxes that no better one of their class covers, best first, with scores and labels.

    Args:
        boxes: (n, K, 4), one for each class.
        probabilities: (n, K + 1), the last of background.
        rule: "detection" of detector.json.
    """
    rows, labels = np.nonzero(probabilities[:, :-1] > rule["score_threshold"])
    boxes, scores = boxes[rows, labels], probabilities[rows, labels]
    kept = []
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        if rule["soft_nms"]:
            scores[own] = soft_nms(boxes[own], scores[own], rule["nms_iou"])
            kept.append(own[scores[own] > rule["score_threshold"]])
        else:
            kept.append(own[nms(boxes[own], scores[own], rule["nms_iou"])])
    keep = np.concatenate(kept) if kept else np.empty(0, np.int64)
    best = keep[np.argsort(-scores[keep], kind="stable")][: rule["most"]]
    return boxes[best], scores[best], labels[best]


def _with_image(boxes: Floats) -> Floats:
    """Boxes (n, 4) of the only image as (n, 5), with its number 0 in front."""
    return np.concatenate([np.zeros((len(boxes), 1), np.float32), boxes], 1)


def _sigmoid(x: Floats) -> Floats:
    result: Floats = (1 / (1 + np.exp(-np.clip(x, -80, None)))).astype(np.float32)
    return result


# --- masks ----------------------------------------------------------------------------------


def paste(grid: Floats, box: Floats, canvas: NDArray[np.bool_], threshold: float = 0.5) -> None:
    """Draw the mask of a box into its picture: bilinear between bins' centres, then cut.

    Args:
        grid: (s, s) probabilities over the box.
        box: (4,) in pixels of the canvas.
        canvas: (H, W), set to True where the mask is.
        threshold: least probability.
    """
    rows, top = _weights(float(box[1]), float(box[3]), canvas.shape[0], len(grid))
    columns, left = _weights(float(box[0]), float(box[2]), canvas.shape[1], len(grid))
    inside = rows @ grid @ columns.T >= threshold
    canvas[top : top + len(rows), left : left + len(columns)] |= inside


def _weights(low: float, high: float, limit: int, bins: int) -> tuple[Floats, int]:
    """How much each bin counts at the centre of each pixel, (pixels, bins), and the first pixel."""
    if not high > low:
        return np.zeros((0, bins), np.float32), 0
    start, stop = max(int(low) - 1, 0), min(int(high) + 2, limit)
    place = (np.arange(start, max(stop, start)) + 0.5 - low) / (high - low) * bins - 0.5
    weights = np.maximum(1 - np.abs(place[:, None] - np.arange(bins)), 0)
    return weights.astype(np.float32), start


def main(files: Sequence[str]) -> int:
    """Print what is in pictures, with the graphs that lie beside this file."""
    if not files or files[0] in ("-h", "--help"):
        print("usage: python detector_host.py PICTURE ...")
        return 0 if files else 2
    detector = OnnxDetector(Path(__file__).parent)
    for file in files:
        found = detector(file)
        names = [detector.classes[label] for label in found["labels"]]
        rows = zip(names, found["scores"].tolist(), found["boxes"].tolist(), strict=True)
        objects = [{"class": n, "score": s, "box": b} for n, s, b in rows]
        print(json.dumps({"file": file, "objects": objects}, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
