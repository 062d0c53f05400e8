"""The parts of a detector that become graphs: what is dense, boxes of proposals, masks of boxes.

Between them lies what depends on the values of the image: sorting, overlaps, the choice of boxes.
That is the business of whoever runs the graphs, see `detector_host.py`.
"""

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from convnext.models.detection.boxes import decode
from convnext.models.detection.heads import BOX_BINS, MASK_BINS
from convnext.models.detection.pooling import CANONICAL
from convnext.models.mask_rcnn import MaskRCNN

__all__ = ["BoxGraph", "DenseGraph", "MaskGraph", "pool"]


class DenseGraph(nn.Module):
    """Images to the levels and what the proposal network says of them."""

    def __init__(self, model: MaskRCNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(N, C, H, W) to P2..P5 (N, D, H / s, W / s), then of each of P2..P6 logits and deltas.

        Logits are (N, 3, H / s, W / s), deltas (N, 12, H / s, W / s).
        """
        levels, outputs = self.model.dense(images)
        return (
            *levels[:-1],
            *(logits for logits, _ in outputs),
            *(deltas for _, deltas in outputs),
        )


class BoxGraph(nn.Module):
    """Proposals to probabilities and a box for each class, through all stages of the heads."""

    def __init__(self, model: MaskRCNN) -> None:
        super().__init__()
        self.roi_head = model.roi_head

    def forward(
        self, p2: Tensor, p3: Tensor, p4: Tensor, p5: Tensor, rois: Tensor, sizes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Score proposals.

        Args:
            p2: level of stride 4, (N, D, H / 4, W / 4); p3, p4, p5 likewise.
            p3: of stride 8.
            p4: of stride 16.
            p5: of stride 32.
            rois: (n, 5), number of the image and box in pixels of the network's input.
            sizes: (N, 2), height and width of each image without its padding, as floats.

        Returns:
            Probabilities (n, K + 1), the last of background, and boxes (n, K, 4).
        """
        levels = [p2, p3, p4, p5]
        limits = sizes.flip(1).repeat(1, 2)[rois[:, 0].long()]  # (n, 4): width, height twice
        stages = self.roi_head.stages
        total = rois.new_zeros(())
        for number, (stage, head) in enumerate(zip(stages, self.roi_head.box_heads, strict=True)):
            logits, deltas = head(pool(levels, rois, BOX_BINS))
            total = total + logits
            if number + 1 < len(stages):
                likely = logits[:, :-1].argmax(1)[:, None, None].expand(-1, 1, 4)
                moved = decode(rois[:, 1:], deltas.gather(1, likely)[:, 0], stage.stds)
                rois = torch.cat([rois[:, :1], _clip(moved, limits)], 1)
        boxes = _clip(decode(rois[:, 1:], deltas, stages[-1].stds), limits[:, None])
        return (total / len(stages)).softmax(1), boxes


class MaskGraph(nn.Module):
    """Boxes to the mask of their class, the mean over the stages' heads."""

    def __init__(self, model: MaskRCNN) -> None:
        super().__init__()
        self.roi_head = model.roi_head

    def forward(
        self, p2: Tensor, p3: Tensor, p4: Tensor, p5: Tensor, rois: Tensor, labels: Tensor
    ) -> Tensor:
        """Levels and rois as in `BoxGraph`, labels (n,) int64, to probabilities (n, 28, 28)."""
        pooled = pool([p2, p3, p4, p5], rois, MASK_BINS)
        rows = torch.arange(rois.shape[0], device=rois.device)
        found = [head(pooled)[rows, labels].sigmoid() for head in self.roi_head.mask_heads]
        return torch.stack(found).mean(0)


def _clip(boxes: Tensor, limits: Tensor) -> Tensor:
    return torch.minimum(boxes.clamp(min=0), limits)


def pool(levels: list[Tensor], rois: Tensor, size: int) -> Tensor:
    """What `detection.pooling.pool` computes, without shapes that depend on values.

    Every box is read from every level and what is of other levels left out of the sum. There it is
    an empty box, which has no samples: otherwise a large box would have thousands in P2.

    Args:
        levels: P2 to P5, (N, C, H, W) each.
        rois: (n, 5), number of the image and box.
        size: bins along each side.

    Returns:
        (n, C, size, size).
    """
    area = ((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])).clamp(min=0)
    side = area.sqrt() / CANONICAL + 1e-6
    # floor(log2(side)) as comparisons: a runtime's logarithm may round another way.
    above = [torch.ones_like(side, dtype=torch.bool), *(side >= 2.0**i for i in (1, 2, 3))]
    nowhere = torch.zeros_like(rois[:, 1:])
    pooled = rois.new_zeros(())
    for i, level in enumerate(levels):
        here = above[i] & ~above[i + 1] if i + 1 < len(levels) else above[i]
        own = torch.cat([rois[:, :1], torch.where(here[:, None], rois[:, 1:], nowhere)], 1)
        read = roi_align(level, own, size, 0.25 / 2**i, 0, aligned=True)
        pooled = pooled + torch.where(here[:, None, None, None], read, torch.zeros_like(read))
    return pooled
