"""Classes, boxes and masks of proposals, in one stage (Mask R-CNN) or several (Cascade)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convnext.models.detection.assign import Sample, sample_with_objects
from convnext.models.detection.boxes import at_least_fp32, clip, decode, encode, giou
from convnext.models.detection.heads import BOX_BINS, MASK_BINS, BoxHead, MaskHead
from convnext.models.detection.masks import mask_targets
from convnext.models.detection.pooling import pool, with_image

__all__ = ["CASCADE", "SINGLE", "RoIConfig", "RoIHead", "StageConfig", "Target"]

POSITIVE_SHARE = 0.25
GIOU_WEIGHT = 10.0
DUMMY_SIDE = 32.0


class Target(NamedTuple):
    """The objects of an image.

    Attributes:
        boxes: (m, 4) in pixels of the network's input, each with a width and a height.
        labels: (m,) int64, 0-based.
        masks: (m, H, W) of 0 and 1 of the image's size or larger; None if there are only boxes.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage of the heads.

    Attributes:
        overlap: least IoU of a proposal with the object that it learns.
        stds: scale of the deltas.
        weight: of the stage's losses.
        low_quality: also the best proposals of each object learn it, from `overlap` on.
        decoded: GIoU loss of decoded boxes instead of the L1 loss of deltas.
    """

    overlap: float
    stds: tuple[float, float, float, float]
    weight: float = 1.0
    low_quality: bool = False
    decoded: bool = False


SINGLE = (StageConfig(overlap=0.5, stds=(0.1, 0.1, 0.2, 0.2), low_quality=True),)
CASCADE = (
    StageConfig(overlap=0.5, stds=(0.1, 0.1, 0.2, 0.2), decoded=True),
    StageConfig(overlap=0.6, stds=(0.05, 0.05, 0.1, 0.1), weight=0.5, decoded=True),
    StageConfig(overlap=0.7, stds=(0.033, 0.033, 0.067, 0.067), weight=0.25, decoded=True),
)


@dataclass(frozen=True, kw_only=True)
class RoIConfig:
    """Widths of the heads and how many proposals they learn from.

    Attributes:
        num_classes: K, without background.
        cascade: three stages.
        masks: predict masks.
        box_convs: convolutions of a box head.
        box_fcs: linear layers of a box head.
        fc_dim: their width.
        mask_convs: convolutions of a mask head.
        sampled: proposals of an image in the losses, a quarter of them positive at most.
    """

    num_classes: int
    cascade: bool
    masks: bool
    box_convs: int
    box_fcs: int
    fc_dim: int
    mask_convs: int
    sampled: int


class RoIHead(nn.Module):
    """The stages' heads; a single stage has no number in its names.

    Source: He et al., Mask R-CNN; Cai and Vasconcelos, Cascade R-CNN; settings: ConvNeXt appendix
        A.3 and the published configurations.
    """

    def __init__(self, dim: int, config: RoIConfig) -> None:
        super().__init__()
        self.config = config
        self.stages = CASCADE if config.cascade else SINGLE
        box_heads = [self._new_box_head(dim) for _ in self.stages]
        self.bbox_head: nn.Module = nn.ModuleList(box_heads) if config.cascade else box_heads[0]
        if config.masks:
            mask_heads = [
                MaskHead(dim, num_convs=config.mask_convs, num_classes=config.num_classes)
                for _ in self.stages
            ]
            self.mask_head: nn.Module = (
                nn.ModuleList(mask_heads) if config.cascade else mask_heads[0]
            )

    def _new_box_head(self, dim: int) -> BoxHead:
        c = self.config
        return BoxHead(
            dim,
            num_convs=c.box_convs,
            num_fcs=c.box_fcs,
            fc_dim=c.fc_dim,
            num_classes=c.num_classes,
        )

    @property
    def box_heads(self) -> list[BoxHead]:
        """The box heads of the stages."""
        heads = self.bbox_head if self.config.cascade else [self.bbox_head]
        return [cast(BoxHead, head) for head in cast(Sequence[nn.Module], heads)]

    @property
    def mask_heads(self) -> list[MaskHead]:
        """The mask heads of the stages; none without masks."""
        if not self.config.masks:
            return []
        heads = self.mask_head if self.config.cascade else [self.mask_head]
        return [cast(MaskHead, head) for head in cast(Sequence[nn.Module], heads)]

    def losses(
        self, levels: list[Tensor], sizes: Tensor, proposals: list[Tensor], targets: list[Target]
    ) -> dict[str, Tensor]:
        """Losses of all stages; of a cascade with the stage in front ("s0.loss_cls").

        Args:
            levels: P2 to P5, (N, C, H, W) each.
            sizes: (N, 2), height and width of each image without its padding.
            proposals: of each image (n, 4).
            targets: of each image.
        """
        losses: dict[str, Tensor] = {}
        for number, (stage, head) in enumerate(zip(self.stages, self.box_heads, strict=True)):
            samples = [
                sample_with_objects(
                    boxes,
                    target.boxes,
                    threshold=stage.overlap,
                    low_quality=stage.low_quality,
                    num=self.config.sampled,
                    positive_share=POSITIVE_SHARE,
                )
                for boxes, target in zip(proposals, targets, strict=True)
            ]
            rois = with_image([s.boxes for s in samples])
            logits, deltas = map(at_least_fp32, head(pool(levels, rois, BOX_BINS)))
            batch = _Drawn.of(samples, targets, self.config.num_classes)
            found = self._box_losses(stage, logits, deltas, rois, batch)
            if self.config.masks:
                mask_head = self.mask_heads[number]
                found["loss_mask"] = _mask_loss(mask_head, levels, rois, batch, samples, targets)
            prefix = f"s{number}." if self.config.cascade else ""
            losses |= {prefix + name: stage.weight * loss for name, loss in found.items()}
            if number + 1 < len(self.stages):
                moved = self._refined(stage, logits, deltas, rois, sizes, batch.labels)
                parts = torch.split(moved, [len(s.boxes) for s in samples])
                proposals = [part[~s.is_object] for part, s in zip(parts, samples, strict=True)]
        return losses

    def _box_losses(
        self, stage: StageConfig, logits: Tensor, deltas: Tensor, rois: Tensor, batch: "_Drawn"
    ) -> dict[str, Tensor]:
        number = max(len(rois), 1)
        positives = batch.positives
        own = deltas[positives, batch.labels[positives]]
        boxes = rois[positives, 1:]
        if not len(positives):
            loss = deltas.sum() * 0
        elif stage.decoded:
            loss = GIOU_WEIGHT * (1 - giou(decode(boxes, own, stage.stds), batch.objects)).sum()
        else:
            loss = F.l1_loss(own, encode(boxes, batch.objects, stage.stds), reduction="sum")
        cls = F.cross_entropy(logits, batch.labels, reduction="sum") / number
        return {"loss_cls": cls, "loss_bbox": loss / number}

    @torch.no_grad()
    def _refined(
        self,
        stage: StageConfig,
        logits: Tensor,
        deltas: Tensor,
        rois: Tensor,
        sizes: Tensor,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Boxes (n, 4) moved by the deltas of their class: the object's, else the likeliest."""
        likely = logits[:, :-1].argmax(1)
        if labels is not None:
            likely = torch.where(labels == self.config.num_classes, likely, labels)
        chosen = deltas[torch.arange(len(rois), device=rois.device), likely]
        return decode(rois[:, 1:], chosen.detach(), stage.stds, sizes[rois[:, 0].long()])

    def scores(
        self, levels: list[Tensor], sizes: Tensor, proposals: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Probabilities (n, K + 1) and a box for each class (n, K, 4), of each image.

        The probabilities are of the mean of the stages' logits, the boxes those of the last stage,
        in pixels of the network's input and clipped to the image.
        """
        rois = with_image(proposals)
        counts = [len(p) for p in proposals]
        total: Tensor | float = 0.0
        for number, (stage, head) in enumerate(zip(self.stages, self.box_heads, strict=True)):
            logits, deltas = map(at_least_fp32, head(pool(levels, rois, BOX_BINS)))
            total = total + logits
            if number + 1 < len(self.stages):
                rois = torch.cat(
                    [rois[:, :1], self._refined(stage, logits, deltas, rois, sizes)], 1
                )
        assert isinstance(total, Tensor)
        probabilities = (total / len(self.stages)).softmax(1)
        boxes = decode(rois[:, 1:], deltas, self.stages[-1].stds)
        boxes = clip(boxes, sizes[rois[:, 0].long()])
        return list(torch.split(probabilities, counts)), list(torch.split(boxes, counts))

    def mask_probabilities(
        self, levels: list[Tensor], boxes: list[Tensor], labels: list[Tensor]
    ) -> list[Tensor]:
        """Masks (n, 28, 28) of boxes (n, 4) of each image, the mean over the stages' heads."""
        rois, classes = with_image(boxes), torch.cat(labels)
        pooled = pool(levels, rois, MASK_BINS)
        rows = torch.arange(len(rois), device=rois.device)
        found = [at_least_fp32(head(pooled))[rows, classes].sigmoid() for head in self.mask_heads]
        return list(torch.split(torch.stack(found).mean(0), [len(b) for b in boxes]))


class _Drawn(NamedTuple):
    """The proposals drawn from all images of a batch, as one list."""

    labels: Tensor  # (n,) class of the object, K for background
    positives: Tensor  # (p,) places of those with an object
    objects: Tensor  # (p, 4) their objects

    @classmethod
    def of(cls, samples: list[Sample], targets: list[Target], background: int) -> "_Drawn":
        labels, positives, objects, start = [], [], [], 0
        for s, target in zip(samples, targets, strict=True):
            own = target.labels.new_full((len(s.boxes),), background)
            own[: s.num_positive] = target.labels[s.objects]
            labels.append(own)
            positives.append(torch.arange(s.num_positive, device=own.device) + start)
            objects.append(target.boxes[s.objects])
            start += len(s.boxes)
        return cls(torch.cat(labels), torch.cat(positives), torch.cat(objects))


def _mask_loss(
    head: MaskHead,
    levels: list[Tensor],
    rois: Tensor,
    batch: _Drawn,
    samples: list[Sample],
    targets: list[Target],
) -> Tensor:
    """Mean binary cross-entropy of the masks of the objects' classes."""
    places = batch.positives
    if not len(places):  # the head still has its part in the graph, as every process needs
        whole = rois.new_tensor([[0.0, 0.0, 0.0, DUMMY_SIDE, DUMMY_SIDE]])
        return at_least_fp32(head(pool(levels, whole, MASK_BINS))).sum() * 0
    logits = at_least_fp32(head(pool(levels, rois[places], MASK_BINS)))
    logits = logits[torch.arange(len(places), device=places.device), batch.labels[places]]
    wanted = []
    for s, target in zip(samples, targets, strict=True):
        assert target.masks is not None, "a mask head learns from masks"
        wanted.append(mask_targets(target.masks, s.boxes[: s.num_positive], s.objects))
    return F.binary_cross_entropy_with_logits(logits, torch.cat(wanted))
