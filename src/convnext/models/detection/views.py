"""Test-time augmentation: one image seen at several sizes and mirrored, one answer."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from convnext.models.detection.nms import best_of_classes
from convnext.models.mask_rcnn import Detections, MaskRCNN

__all__ = ["View", "detect_views"]


class View(NamedTuple):
    """One image as it is shown to the network.

    Attributes:
        image: (1, C, H, W), normalised, zero-padded at the right and at the bottom.
        size: (2,), height and width without the padding.
        mirrored: left and right are exchanged.
    """

    image: Tensor
    size: Tensor
    mirrored: bool

    def to_original(self, boxes: Tensor, original: Tensor) -> Tensor:
        """Boxes (..., 4) of this view in pixels of the original."""
        return self._mirror(boxes, self.size) / self._ratio(original)

    def from_original(self, boxes: Tensor, original: Tensor) -> Tensor:
        """Boxes (..., 4) of the original in pixels of this view."""
        return self._mirror(boxes * self._ratio(original), self.size)

    def _ratio(self, original: Tensor) -> Tensor:
        return (self.size / original).flip(0).repeat(2)  # x, y, x, y

    def _mirror(self, boxes: Tensor, size: Tensor) -> Tensor:
        if not self.mirrored:
            return boxes
        x1, y1, x2, y2 = boxes.unbind(-1)
        return torch.stack([size[1] - x2, y1, size[1] - x1, y2], -1)


@torch.no_grad()
def detect_views(model: MaskRCNN, views: Sequence[View], original: Tensor) -> Detections:
    """Find the objects of one image in several views of it.

    The boxes of all views compete; masks of what is left are the mean over the views.

    Args:
        model: in evaluation mode.
        views: of the same image, at least one.
        original: (2,), height and width of the original image.
    """
    seen, boxes, probabilities = [], [], []
    for view in views:
        levels, outputs = model.dense(view.image)
        sizes = view.size[None]
        proposals = [p[:, :4] for p in model.rpn_head.proposals(outputs, sizes)]
        scores, found = model.roi_head.scores(levels[:-1], sizes, proposals)
        seen.append(levels[:-1])
        boxes.append(view.to_original(found[0], original))
        probabilities.append(scores[0])
    best = best_of_classes(
        torch.cat(boxes),
        torch.cat(probabilities),
        threshold=model.config.score_threshold,
        most=model.config.max_detections,
        soft=model.config.soft_nms,
    )
    if not model.config.masks:
        return Detections(*best, None)
    masks = []
    for view, levels in zip(views, seen, strict=True):
        there = view.from_original(best[0], original)
        mask = model.roi_head.mask_probabilities(levels, [there], [best[2]])[0]
        masks.append(mask.flip(-1) if view.mirrored else mask)
    return Detections(*best, torch.stack(masks).mean(0))
