"""Masks of boxes: small targets to learn from, and the way back to whole images."""

import torch
from torch import Tensor

from convnext.models.detection.roi_align import kernel_roi_align

__all__ = ["MASK_SIDE", "mask_targets", "paste"]

MASK_SIDE = 28
THRESHOLD = 0.5


def mask_targets(masks: Tensor, boxes: Tensor, objects: Tensor) -> Tensor:
    """What a mask head should say of boxes: the object's mask in a grid of 28 x 28 bins.

    Args:
        masks: (m, H, W) of all objects of an image, 0 or 1.
        boxes: (p, 4) in pixels of these masks.
        objects: (p,) number of each box's object.

    Returns:
        (p, 28, 28) of 0 and 1, in the dtype of the boxes: 1 where at least half of a bin is mask.
    """
    if not len(boxes):
        return boxes.new_zeros(0, MASK_SIDE, MASK_SIDE)
    used, row = torch.unique(objects, return_inverse=True)
    rois = torch.cat([row[:, None].to(boxes), boxes], 1)
    bitmaps = masks[used][:, None].to(boxes.dtype)
    targets = kernel_roi_align(bitmaps, rois, MASK_SIDE, 1.0)
    return (targets[:, 0] >= THRESHOLD).to(boxes.dtype)


def paste(mask: Tensor, box: Tensor, size: tuple[int, int]) -> Tensor:
    """The mask of one box in its whole image: bilinear between bins' centres, cut at 0.5.

    Args:
        mask: (28, 28) probabilities.
        box: (4,) in pixels of the image.
        size: height and width of the image.

    Returns:
        (height, width) bool. Only the pixels below the box are computed.
    """
    canvas = torch.zeros(size, dtype=torch.bool, device=mask.device)
    x1, y1, x2, y2 = box.tolist()
    rows, y0 = _weights(y1, y2, size[0], mask)
    columns, x0 = _weights(x1, x2, size[1], mask)
    if len(rows) and len(columns):
        inside = rows @ mask @ columns.T >= THRESHOLD
        canvas[y0 : y0 + len(rows), x0 : x0 + len(columns)] = inside
    return canvas


def _weights(low: float, high: float, limit: int, like: Tensor) -> tuple[Tensor, int]:
    """How much each bin along a side counts at the centre of each pixel: (pixels, 28), and the
    first of these pixels. Beyond the outer bins' centres the mask falls to 0.
    """
    if not high > low:
        return like.new_zeros(0, MASK_SIDE), 0
    start, stop = max(int(low) - 1, 0), min(int(high) + 2, limit)
    centres = torch.arange(start, max(stop, start), dtype=torch.float64, device=like.device) + 0.5
    place = (centres - low) / (high - low) * MASK_SIDE - 0.5
    bins = torch.arange(MASK_SIDE, dtype=torch.float64, device=like.device)
    return (1 - (place[:, None] - bins).abs()).clamp(min=0).to(like.dtype), start
