"""Which box learns which object, and which boxes are drawn for the loss."""

from typing import NamedTuple

import torch
from torch import Tensor

from convnext.models.detection.boxes import iou

__all__ = ["IGNORED", "NEGATIVE", "Sample", "assign", "sample", "sample_with_objects"]

NEGATIVE, IGNORED = -1, -2


def assign(
    boxes: Tensor,
    objects: Tensor,
    *,
    positive: float,
    negative: float,
    low_quality: float | None = None,
) -> Tensor:
    """The object of each box by intersection over union.

    A box that overlaps an object by at least `positive` learns the one that it overlaps most; one
    that overlaps all by less than `negative` learns that there is nothing; what lies between is
    ignored. With `low_quality` every object whose best overlap reaches it also takes all boxes of
    this best overlap, later objects before earlier ones.

    Args:
        boxes: (n, 4).
        objects: (m, 4), m may be 0.
        positive: least overlap with the learnt object.
        negative: overlaps below are background.
        low_quality: least overlap of an object's best boxes; None leaves the rule out.

    Returns:
        (n,) int64: number of an object, `NEGATIVE` or `IGNORED`.

    Source: Ren et al., Faster R-CNN, section 3.1.2.
    """
    result = boxes.new_full((len(boxes),), IGNORED, dtype=torch.int64)
    if not len(objects) or not len(boxes):
        return result.fill_(NEGATIVE)
    overlaps = iou(objects, boxes)  # (m, n)
    best, number = overlaps.max(0)
    result[best < negative] = NEGATIVE
    result = torch.where(best >= positive, number, result)
    if low_quality is not None:
        best_of_object = overlaps.amax(1, keepdim=True)
        takes = (overlaps == best_of_object) & (best_of_object >= low_quality)
        taken, by = torch.nonzero(takes.T, as_tuple=True)
        last = result.new_full(result.shape, -1).scatter_reduce(0, taken, by, "amax")
        result = torch.where(last >= 0, last, result)
    return result


class Sample(NamedTuple):
    """Boxes drawn for the loss, positives first.

    Attributes:
        boxes: (n, 4).
        objects: (p,) int64, the object of each positive.
        is_object: (n,) bool, boxes that are objects themselves, added to the proposals.
    """

    boxes: Tensor
    objects: Tensor
    is_object: Tensor

    @property
    def num_positive(self) -> int:
        """How many of the boxes, the first ones, have an object."""
        return len(self.objects)


def sample(assigned: Tensor, num: int, positive_share: float) -> tuple[Tensor, Tensor]:
    """Draw boxes at random: at most a share of positives, filled up with negatives.

    Returns:
        Positions of positives and of negatives, ascending.
    """
    positives = _draw(torch.nonzero(assigned >= 0)[:, 0], int(num * positive_share))
    negatives = _draw(torch.nonzero(assigned == NEGATIVE)[:, 0], num - len(positives))
    return positives, negatives


def _draw(positions: Tensor, most: int) -> Tensor:
    if len(positions) <= most:
        return positions
    chosen = torch.randperm(len(positions), device=positions.device)[:most]
    return positions[chosen].sort().values


def sample_with_objects(
    proposals: Tensor,
    objects: Tensor,
    *,
    threshold: float,
    low_quality: bool,
    num: int,
    positive_share: float,
) -> Sample:
    """Assign proposals (n, 4) to objects (m, 4), add the objects as proposals, and draw."""
    assigned = assign(
        proposals,
        objects,
        positive=threshold,
        negative=threshold,
        low_quality=threshold if low_quality else None,
    )
    own = torch.arange(len(objects), device=proposals.device)
    assigned = torch.cat([own, assigned])
    boxes = torch.cat([objects, proposals])
    positives, negatives = sample(assigned, num, positive_share)
    chosen = torch.cat([positives, negatives])
    return Sample(boxes[chosen], assigned[positives], chosen < len(objects))
