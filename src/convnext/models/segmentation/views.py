"""From logits to a class for every pixel of an image, seen once or in several views.

Source: the published test configurations of ConvNeXt's networks for ADE20K: single-scale testing
resizes the logits to the original image; multi-scale testing takes the mean of the probabilities of
six sizes, each also mirrored.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["SCALES", "classes_at", "mean_probabilities"]

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
BAND_BYTES = 64 * 2**20


def classes_at(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """The class of highest score of every pixel after bilinear resizing.

    The resized scores of a large image never exist whole: it is done in bands of rows.

    Args:
        scores: (K, h, w), logits or probabilities.
        size: height and width of the result.

    Returns:
        (H, W) int16 (int32 of more than 32,767 classes).
    """
    num_classes, have, _ = scores.shape
    height, width = size
    dtype = torch.int16 if num_classes <= torch.iinfo(torch.int16).max else torch.int32
    classes = torch.empty(size, dtype=dtype, device=scores.device)
    if scores.shape[1:] == size:
        # As int64 first: a band at a time keeps that small.
        for band in _bands(height, width * num_classes):
            classes[band] = scores[:, band].argmax(0).to(dtype)
        return classes
    source = ((torch.arange(height, device=scores.device) + 0.5) * (have / height) - 0.5).clamp(0)
    above = source.long().clamp(max=have - 1)
    below = (above + 1).clamp(max=have - 1)
    share = (source - above).to(scores.dtype)[:, None]
    for band in _bands(height, width * num_classes):
        rows = scores[:, above[band]].lerp(scores[:, below[band]], share[band])  # (K, b, w)
        resized = F.interpolate(
            rows[None], (rows.shape[1], width), mode="bilinear", align_corners=False
        )
        classes[band] = resized[0].argmax(0).to(dtype)
    return classes


def _bands(height: int, numbers_a_row: int) -> list[slice]:
    rows = max(1, BAND_BYTES // (4 * numbers_a_row))
    return [slice(top, min(top + rows, height)) for top in range(0, height, rows)]


def mean_probabilities(
    predict: Callable[[Tensor], Tensor], views: Iterable[Tensor], size: tuple[int, int]
) -> Tensor:
    """Mean of the probabilities of several views, each as it is and mirrored.

    Each view's logits are resized to `size` before the softmax.

    Args:
        predict: (1, C, h, w) to logits (1, K, h, w).
        views: (C, h, w) each, the same image at several sizes.
        size: height and width of the result.

    Returns:
        (K, H, W).
    """
    total: Tensor | None = None
    seen = 0
    for view in views:
        for mirrored in (False, True):
            image = view.flip(-1) if mirrored else view
            logits = predict(image[None])
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            resized = F.interpolate(logits, size, mode="bilinear", align_corners=False)
            probabilities = resized.softmax(1)[0]
            if mirrored:
                probabilities = probabilities.flip(-1)
            total = probabilities if total is None else total.add_(probabilities)
            seen += 1
    assert total is not None, "there is at least one view"
    return total / seen
