"""The detections of an image: what is left of overlapping boxes of the same class."""

import torch
from torch import Tensor

from convnext.models.detection.boxes import iou

__all__ = ["best_of_classes"]

NMS_IOU = 0.5


def best_of_classes(
    boxes: Tensor, probabilities: Tensor, *, threshold: float, most: int, soft: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes that no better one of their class covers, best first.

    A box that is not finite, or a score that is no number, is no detection.

    Args:
        boxes: (n, K, 4), one for each class.
        probabilities: (n, K + 1), the last of background.
        threshold: only above it a class counts.
        most: boxes of an image.
        soft: lower the scores of what is covered instead of dropping it.

    Returns:
        boxes (d, 4), scores (d,), labels (d,).

    Source: Bodla et al., Soft-NMS, ICCV 2017, equation 2 (linear).
    """
    rows, labels = torch.nonzero(probabilities[:, :-1] > threshold, as_tuple=True)
    scores, boxes = probabilities[rows, labels], boxes[rows, labels]
    finite = boxes.isfinite().all(1)  # a score that is no number is above no threshold
    boxes, scores, labels = boxes[finite], scores[finite], labels[finite]
    if soft:
        scores = _softened(boxes, scores, labels)
        order = scores.argsort(descending=True)
        keep = order[scores[order] > threshold][:most]
    else:
        from torchvision.ops import batched_nms  # slow to import, and lists need no boxes

        keep = batched_nms(boxes, scores, labels, NMS_IOU)[:most]
    return boxes[keep], scores[keep], labels[keep]


def _softened(boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
    """Scores times (1 - IoU) for each better box of the class that covers more than half."""
    scores = scores.clone()
    for label in torch.unique(labels):
        own = torch.nonzero(labels == label)[:, 0]
        overlaps = iou(boxes[own], boxes[own])
        decay = torch.where(overlaps > NMS_IOU, 1 - overlaps, torch.ones_like(overlaps))
        left, waiting = scores[own], torch.ones_like(own, dtype=torch.bool)
        for _ in range(len(own)):
            best = torch.where(waiting, left, left.new_tensor(-1.0)).argmax()
            waiting[best] = False
            left = torch.where(waiting, left * decay[best], left)
        scores[own] = left
    return scores
