"""Geometry of boxes: anchors, deltas, overlaps.

Boxes are (n, 4) as x1, y1, x2, y2 in pixels of the network's input, continuous: x2 - x1 is the
width. Sizes of images are (height, width). Nothing is computed in a dtype narrower than
fp32.
"""

import math

import torch
from torch import Tensor

__all__ = ["anchors", "at_least_fp32", "clip", "decode", "encode", "giou", "iou", "nonempty"]

MAX_LOG_RATIO = -math.log(16 / 1000)  # a side changes by a factor of at most 62.5
EPS = 1e-7


def at_least_fp32(x: Tensor) -> Tensor:
    """A tensor of half precision as fp32; others as they are."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def anchors(grid: tuple[int, int], stride: int, scale: float, device: torch.device) -> Tensor:
    """The boxes that one level of the pyramid proposes to begin with.

    Centres lie at multiples of the stride, sides are stride * scale * (1/√r, √r) for the ratios
    r = height / width of 1/2, 1 and 2; nothing is rounded.

    Args:
        grid: rows and columns of the level.
        stride: pixels from one cell to the next.
        scale: side of a square anchor in strides.
        device: where they are wanted.

    Returns:
        (rows * columns * 3, 4) in fp32, by row, column and ratio.
    """
    roots = torch.tensor([0.5, 1.0, 2.0], device=device).sqrt()
    half = torch.stack([1 / roots, roots], 1) * (0.5 * stride * scale)  # (3, 2): width, height
    y = torch.arange(grid[0], device=device) * stride
    x = torch.arange(grid[1], device=device) * stride
    centres = torch.stack([x.expand(grid), y[:, None].expand(grid)], -1)[:, :, None]  # (H, W, 1, 2)
    return torch.cat([centres - half, centres + half], -1).reshape(-1, 4)


def encode(boxes: Tensor, targets: Tensor, stds: tuple[float, ...]) -> Tensor:
    """Deltas that turn boxes into targets, both (n, 4).

    ((x_t - x) / w, (y_t - y) / h, log(w_t / w), log(h_t / h)) / stds of centres and sides.
    """
    centre, side = _centre_side(boxes)
    target_centre, target_side = _centre_side(targets)
    deltas = torch.cat([(target_centre - centre) / side, (target_side / side).log()], -1)
    return deltas / deltas.new_tensor(stds)


def decode(
    boxes: Tensor, deltas: Tensor, stds: tuple[float, ...], size: Tensor | None = None
) -> Tensor:
    """Boxes (n, 4) moved by deltas (n, 4) or (n, K, 4); the inverse of `encode`.

    With the size of the image (2,), or one for each box (n, 2), the results are clipped to it.
    """
    deltas = at_least_fp32(deltas)
    deltas = deltas * deltas.new_tensor(stds)
    if deltas.ndim == 3:
        boxes = boxes[:, None]
    centre, side = _centre_side(boxes)
    centre = centre + side * deltas[..., :2]
    half = side * deltas[..., 2:].clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp() / 2
    result = torch.cat([centre - half, centre + half], -1)
    return result if size is None else clip(result, size)


def _centre_side(boxes: Tensor) -> tuple[Tensor, Tensor]:
    low, high = boxes[..., :2], boxes[..., 2:]
    return (low + high) / 2, high - low


def clip(boxes: Tensor, size: Tensor) -> Tensor:
    """Boxes (n, ..., 4) cut at the border of the image of a size (2,), or (n, 2) for each."""
    limit = torch.cat([size.flip(-1)] * 2, -1).to(boxes)  # width, height, width, height
    if size.ndim == 2:
        limit = limit.reshape(len(size), *[1] * (boxes.ndim - 2), 4)
    return torch.minimum(boxes.clamp(min=0), limit)


def nonempty(boxes: Tensor) -> Tensor:
    """Which boxes (n, 4) have a width and a height, (n,) bool."""
    return ((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])).logical_and(
        boxes.isfinite().all(1)
    )


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of every box of (n, 4) with every one of (m, 4): (n, m)."""
    # One (n, m) tensor at a time: with many objects and anchors these are what memory goes into.
    common = _overlap(one, other, 0).mul_(_overlap(one, other, 1))
    union = (_area(one)[:, None] + _area(other)).sub_(common)
    return common.div_(union.clamp_(min=1e-6))


def _overlap(one: Tensor, other: Tensor, axis: int) -> Tensor:
    """How far every box of (n, 4) and every one of (m, 4) go together along x or y: (n, m)."""
    high = torch.minimum(one[:, None, 2 + axis], other[:, 2 + axis])
    return high.sub_(torch.maximum(one[:, None, axis], other[:, axis])).clamp_(min=0)


def giou(one: Tensor, other: Tensor) -> Tensor:
    """Generalised IoU of pairs of boxes, both (n, 4): IoU - (hull - union) / hull, in (-1, 1].

    Source: Rezatofighi et al., Generalized Intersection over Union, CVPR 2019, algorithm 1.
    """
    low = torch.maximum(one[:, :2], other[:, :2])
    high = torch.minimum(one[:, 2:], other[:, 2:])
    common = (high - low).clamp(min=0).prod(-1)
    union = (_area(one) + _area(other) - common).clamp(min=EPS)
    hull_low = torch.minimum(one[:, :2], other[:, :2])
    hull_high = torch.maximum(one[:, 2:], other[:, 2:])
    hull = (hull_high - hull_low).clamp(min=0).prod(-1).clamp(min=EPS)
    return common / union - (hull - union) / hull
