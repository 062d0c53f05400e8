"""Region proposal network: where something is, whatever it is."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convnext.models.detection.assign import assign, sample
from convnext.models.detection.boxes import anchors, at_least_fp32, decode, encode

__all__ = ["RPN", "RPNConfig"]

STRIDES = (4, 8, 16, 32, 64)
STDS = (1.0, 1.0, 1.0, 1.0)
POSITIVE, NEGATIVE_BELOW, LOW_QUALITY = 0.7, 0.3, 0.3
NMS_IOU = 0.7
SMOOTH_BETA = 1 / 9
DIVISOR = 32  # images are padded to multiples of it

Outputs = list[tuple[Tensor, Tensor]]  # of each level: logits (N, 3, H, W), deltas (N, 12, H, W)


@dataclass(frozen=True, kw_only=True)
class RPNConfig:
    """How proposals are made and learnt.

    Attributes:
        anchor_scale: side of the square anchors in strides.
        per_level: best anchors kept of each level and image, in training and in evaluation.
        proposals: proposals of an image, in training and in evaluation.
        sampled: anchors of an image in the loss, half of them positive at most.
        inside_only: leave anchors out of the loss that cross the border of their image.
        smooth: smooth L1 loss of deltas instead of L1.

    Source: ConvNeXt appendix A.3; its Mask R-CNN has (1000, 1000) proposals and L1, its Cascade
        (2000, 1000), `inside_only` and smooth L1.
    """

    anchor_scale: float = 8.0
    per_level: tuple[int, int] = (2000, 1000)
    proposals: tuple[int, int] = (1000, 1000)
    sampled: int = 256
    inside_only: bool = False
    smooth: bool = False


class RPN(nn.Module):
    """A convolution, then logit and deltas of three anchors at each place of each level.

    Source: Ren et al., Faster R-CNN, section 3.1; on pyramids, Lin et al. 2017, section 4.1.
    """

    def __init__(self, dim: int, config: RPNConfig) -> None:
        super().__init__()
        self.config = config
        self.rpn_conv = nn.Conv2d(dim, dim, 3, padding=1)
        self.rpn_cls = nn.Conv2d(dim, 3, 1)
        self.rpn_reg = nn.Conv2d(dim, 12, 1)
        for conv in (self.rpn_conv, self.rpn_cls, self.rpn_reg):
            nn.init.normal_(conv.weight, std=0.01)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def forward(self, levels: list[Tensor]) -> Outputs:
        """Levels (N, C, H, W) to logits (N, 3, H, W) and deltas (N, 12, H, W) of each."""
        hidden = [F.relu(self.rpn_conv(x)) for x in levels]
        return [(self.rpn_cls(x), self.rpn_reg(x)) for x in hidden]

    def _anchors(self, outputs: Outputs) -> list[Tensor]:
        return [
            anchors(
                (logits.shape[-2], logits.shape[-1]),
                stride,
                self.config.anchor_scale,
                logits.device,
            )
            for (logits, _), stride in zip(outputs, STRIDES, strict=True)
        ]

    @torch.no_grad()
    def proposals(self, outputs: Outputs, sizes: Tensor) -> list[Tensor]:
        """Boxes that may hold an object, of each image (n, 5): box and score, best first.

        Args:
            outputs: of `forward`.
            sizes: (N, 2), height and width of each image without its padding.
        """
        from torchvision.ops import batched_nms  # slow to import, and lists need no boxes

        which = 0 if self.training else 1
        most, kept = self.config.per_level[which], self.config.proposals[which]
        levels = [
            (*_flat(logits.detach(), deltas.detach()), boxes)
            for (logits, deltas), boxes in zip(outputs, self._anchors(outputs), strict=True)
        ]
        found = []
        for n, size in enumerate(sizes):
            boxes, scores, numbers = [], [], []
            for number, (logits, deltas, level_anchors) in enumerate(levels):
                best, places = logits[n].sort(descending=True)
                best, places = best[:most], places[:most]
                boxes.append(decode(level_anchors[places], deltas[n, places], STDS, size))
                scores.append(best.sigmoid())
                numbers.append(torch.full_like(places, number))
            all_boxes, all_scores = torch.cat(boxes), torch.cat(scores)
            keep = batched_nms(all_boxes, all_scores, torch.cat(numbers), NMS_IOU)[:kept]
            found.append(torch.cat([all_boxes, all_scores[:, None]], 1)[keep])
        return found

    def losses(self, outputs: Outputs, sizes: Tensor, objects: list[Tensor]) -> dict[str, Tensor]:
        """Losses of logits and deltas on drawn anchors, both divided by their number.

        Args:
            outputs: of `forward`.
            sizes: (N, 2), height and width of each image without its padding.
            objects: of each image the boxes (m, 4).
        """
        levels = self._anchors(outputs)
        all_anchors = torch.cat(levels)
        flat = [_flat(logits, deltas) for logits, deltas in outputs]
        logits = torch.cat([level[0] for level in flat], 1)  # (N, A)
        deltas = torch.cat([level[1] for level in flat], 1)  # (N, A, 4)
        loss_cls, loss_box, total = logits.sum() * 0, deltas.sum() * 0, 0
        for n, (size, boxes) in enumerate(zip(sizes.tolist(), objects, strict=True)):
            usable = self._usable(all_anchors, levels, outputs, size)
            assigned = assign(
                all_anchors[usable],
                boxes,
                positive=POSITIVE,
                negative=NEGATIVE_BELOW,
                low_quality=LOW_QUALITY,
            )
            positives, negatives = sample(assigned, self.config.sampled, 0.5)
            learnt = assigned[positives]
            positives, negatives = usable[positives], usable[negatives]
            drawn = logits[n, torch.cat([positives, negatives])]
            is_object = torch.zeros_like(drawn)
            is_object[: len(positives)] = 1
            loss_cls = loss_cls + F.binary_cross_entropy_with_logits(
                drawn, is_object, reduction="sum"
            )
            wanted = encode(all_anchors[positives], boxes[learnt], STDS)
            loss_box = loss_box + self._box_loss(deltas[n, positives], wanted)
            total += max(len(positives), 1) + max(len(negatives), 1)
        return {"loss_rpn_cls": loss_cls / total, "loss_rpn_bbox": loss_box / total}

    def _box_loss(self, deltas: Tensor, wanted: Tensor) -> Tensor:
        if self.config.smooth:
            return F.smooth_l1_loss(deltas, wanted, reduction="sum", beta=SMOOTH_BETA)
        return F.l1_loss(deltas, wanted, reduction="sum")

    def _usable(
        self, boxes: Tensor, levels: list[Tensor], outputs: Outputs, size: list[int]
    ) -> Tensor:
        """Positions of anchors whose cell is of the image itself, not of the batch's padding."""
        height, width = size
        masks = []
        for (logits, _), level, stride in zip(outputs, levels, STRIDES, strict=True):
            rows, columns = logits.shape[-2:]
            inside = torch.zeros(rows, columns, 3, dtype=torch.bool, device=level.device)
            inside[: _cells(height, stride), : _cells(width, stride)] = True
            masks.append(inside.flatten())
        mask = torch.cat(masks)
        if self.config.inside_only:
            low, high = boxes[:, :2], boxes[:, 2:]
            limit = boxes.new_tensor([width, height])
            mask &= (low >= 0).all(1) & (high < limit).all(1)
        return torch.nonzero(mask)[:, 0]


def _cells(side: int, stride: int) -> int:
    """Cells of a level along one side of an image that is padded by itself, rounded up."""
    return -(-(-(-side // DIVISOR) * DIVISOR) // stride)


def _flat(logits: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor]:
    """Maps of a level as (N, H * W * 3) and (N, H * W * 3, 4), never narrower than fp32."""
    n = len(logits)
    flat_logits = logits.permute(0, 2, 3, 1).reshape(n, -1)
    flat_deltas = deltas.permute(0, 2, 3, 1).reshape(n, -1, 4)
    return at_least_fp32(flat_logits), at_least_fp32(flat_deltas)
