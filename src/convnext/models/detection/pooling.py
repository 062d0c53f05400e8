"""RoIAlign on a pyramid: each box is read from the level that fits its size."""

import torch
from torch import Tensor

from convnext.models.detection.boxes import at_least_fp32
from convnext.models.detection.roi_align import aligned_roi_align

__all__ = ["pool", "with_image"]

CANONICAL = 56.0  # side in pixels from which on boxes are read from P3


def with_image(boxes: list[Tensor]) -> Tensor:
    """Boxes of each image (n_i, 4) as (sum n_i, 5), with the number of the image in front."""
    numbers = [b.new_full((len(b), 1), i) for i, b in enumerate(boxes)]
    return torch.cat([torch.cat(numbers), torch.cat(boxes)], 1)


def pool(levels: list[Tensor], rois: Tensor, size: int) -> Tensor:
    """Features of boxes: averages of bilinear samples in a grid of size x size bins.

    A box of w x h pixels is read from level floor(log2(√(w h) / 56)), P2 at least and the last of
    `levels` at most. Half a pixel is taken off coordinates (aligned), bins have as many samples as
    they need.

    Args:
        levels: (N, C, H, W) of strides 4, 8, ...
        rois: (n, 5), number of the image and box; n may be 0.
        size: bins along each side.

    Returns:
        (n, C, size, size), in the dtype of the boxes.

    Source: He et al., Mask R-CNN, section 3; Lin et al. 2017, equation 1.
    """
    area = ((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])).clamp(min=0)
    wanted = torch.log2(area.sqrt() / CANONICAL + 1e-6).floor().clamp(0, len(levels) - 1).long()
    pooled = rois.new_zeros(len(rois), levels[0].shape[1], size, size)
    for i, level in enumerate(levels):
        here = torch.nonzero(wanted == i)[:, 0]
        features = at_least_fp32(level)
        # Also without boxes, so that every level is part of the graph.
        read = aligned_roi_align(features, rois[here].to(features), size, 0.25 / 2**i)
        pooled[here] = read.to(pooled)
    return pooled
