"""Mask R-CNN and Cascade Mask R-CNN on any backbone with four maps of strides 4 to 32.

    image --backbone--> 4 maps --neck--> P2..P6 --rpn_head--> proposals --roi_head--> boxes, masks

Settings are those of the published ConvNeXt detectors, every width a field. Names of tensors are
the published ones, but for the body of the backbone, which keeps its own.

Sources: He et al., Mask R-CNN, ICCV 2017; Cai and Vasconcelos, Cascade R-CNN, CVPR 2018; Liu et
al., ConvNeXt, section 4 and appendix A.3; Woo et al., ConvNeXt V2, section 5.
"""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from convnext.models.detection.boxes import nonempty
from convnext.models.detection.neck import FPN
from convnext.models.detection.nms import best_of_classes
from convnext.models.detection.roi_head import RoIConfig, RoIHead, Target
from convnext.models.detection.rpn import RPN, Outputs, RPNConfig
from convnext.models.map_backbone import MapBackbone
from convnext.models.registry import build_model, is_model, unknown

__all__ = ["DETECTORS", "Detections", "MaskRCNN", "MaskRCNNConfig", "Target", "detector_config"]


@dataclass(frozen=True, kw_only=True)
class MaskRCNNConfig:
    """A detector.

    Attributes:
        backbone: name of a network with four stages.
        num_classes: classes of objects.
        in_chans: input channels.
        drop_path_rate: stochastic depth of the backbone's last block.
        cascade: three stages of heads instead of one.
        masks: predict masks; without them this is Faster R-CNN.
        fpn_dim: channels of the pyramid, the proposal network and the heads.
        fc_dim: width of the box heads' linear layers.
        box_convs: convolutions of a box head; by default 4 in a cascade, else none.
        mask_convs: convolutions of a mask head.
        anchor_scale: side of the square anchors in strides; smaller for small objects.
        rpn_per_level: anchors kept of each level, in training and in evaluation.
        rpn_proposals: proposals of an image; by default (2000, 1000) in a cascade, else
            (1000, 1000).
        rpn_sampled: anchors of an image in the loss.
        roi_sampled: proposals of an image in the losses.
        score_threshold: detections score more.
        max_detections: detections of an image.
        soft_nms: lower the scores of covered detections instead of dropping them.

    Raises:
        ValueError: a value is out of its range.
    """

    backbone: str = "convnext_tiny"
    num_classes: int = 80
    in_chans: int = 3
    drop_path_rate: float = 0.0
    cascade: bool = False
    masks: bool = True
    fpn_dim: int = 256
    fc_dim: int = 1024
    box_convs: int | None = None
    mask_convs: int = 4
    anchor_scale: float = 8.0
    rpn_per_level: tuple[int, int] = (2000, 1000)
    rpn_proposals: tuple[int, int] | None = None
    rpn_sampled: int = 256
    roi_sampled: int = 512
    score_threshold: float = 0.05
    max_detections: int = 100
    soft_nms: bool = False

    def __post_init__(self) -> None:
        for name in ("rpn_per_level", "rpn_proposals"):  # JSON has lists only
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, tuple(value))
        at_least_one = ("num_classes", "in_chans", "fpn_dim", "fc_dim", "max_detections")
        for name in (*at_least_one, "rpn_sampled", "roi_sampled"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        if min(self.mask_convs, self.box_convs or 0) < 0:
            raise ValueError("box_convs and mask_convs must be 0 or more")
        if min(*self.rpn_per_level, *(self.rpn_proposals or (1, 1))) < 1:
            raise ValueError("rpn_per_level and rpn_proposals must be at least 1")
        if self.anchor_scale <= 0:
            raise ValueError(f"anchor_scale {self.anchor_scale} must be above 0")
        if not 0 <= self.score_threshold < 1:
            raise ValueError(f"score_threshold {self.score_threshold} must be in [0, 1)")

    def rpn(self) -> RPNConfig:
        """Settings of the proposal network."""
        return RPNConfig(
            anchor_scale=self.anchor_scale,
            per_level=self.rpn_per_level,
            proposals=self.rpn_proposals or (2000 if self.cascade else 1000, 1000),
            sampled=self.rpn_sampled,
            inside_only=self.cascade,
            smooth=self.cascade,
        )

    def roi(self) -> RoIConfig:
        """Settings of the heads."""
        convs = self.box_convs if self.box_convs is not None else 4 * self.cascade
        return RoIConfig(
            num_classes=self.num_classes,
            cascade=self.cascade,
            masks=self.masks,
            box_convs=convs,
            box_fcs=1 if convs else 2,
            fc_dim=self.fc_dim,
            mask_convs=self.mask_convs,
            sampled=self.roi_sampled,
        )


class Detections(NamedTuple):
    """What was found in an image, best first.

    Attributes:
        boxes: (d, 4) as x1, y1, x2, y2 in pixels of the original image.
        scores: (d,).
        labels: (d,) int64, 0-based.
        masks: (d, 28, 28) probabilities in a grid over each box, see `detection.masks.paste`; None
            of a detector without masks.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None


class MaskRCNN(nn.Module):
    """The detector.

    Args:
        config: its settings.
        body: the network below the pyramid; by default a new one of `config.backbone`. It returns
            four maps and has `feature_info`.

    Raises:
        ValueError: the backbone has not four maps of strides 4 to 32.
    """

    def __init__(self, config: MaskRCNNConfig, body: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        if body is None:
            body = build_model(
                config.backbone,
                in_chans=config.in_chans,
                drop_path_rate=config.drop_path_rate,
                features_only=True,
                num_classes=0,
            )
        self.backbone = MapBackbone(body)
        self.neck = FPN(self.backbone.channels, config.fpn_dim)
        self.rpn_head = RPN(config.fpn_dim, config.rpn())
        self.roi_head = RoIHead(config.fpn_dim, config.roi())

    def dense(self, images: Tensor) -> tuple[list[Tensor], Outputs]:
        """What is computed everywhere: levels P2 to P6 and the proposal network's outputs.

        Args:
            images: (N, C, H, W), normalised, H and W multiples of 32.
        """
        levels = self.neck(self.backbone(images))
        return levels, self.rpn_head(levels)

    def losses(self, images: Tensor, sizes: Tensor, targets: list[Target]) -> dict[str, Tensor]:
        """The parts of the loss, under their published names; their sum is to be minimised.

        Args:
            images: (N, C, H, W), normalised, zero-padded at the right and at the bottom.
            sizes: (N, 2), height and width of each image without its padding.
            targets: the objects of each image, in pixels of `images`. Boxes without width or
                height are left out.
        """
        targets = [_usable(target) for target in targets]
        levels, outputs = self.dense(images)
        losses = self.rpn_head.losses(outputs, sizes, [t.boxes for t in targets])
        proposals = [p[:, :4] for p in self.rpn_head.proposals(outputs, sizes)]
        return losses | self.roi_head.losses(levels[:-1], sizes, proposals, targets)

    def detect(self, images: Tensor, sizes: Tensor, originals: Tensor) -> list[Detections]:
        """Find objects.

        Args:
            images: (N, C, H, W), normalised, zero-padded at the right and at the bottom.
            sizes: (N, 2), height and width of each image without its padding.
            originals: (N, 2), height and width of each original image, whose pixels boxes are in.
        """
        levels, outputs = self.dense(images)
        levels = levels[:-1]
        proposals = [p[:, :4] for p in self.rpn_head.proposals(outputs, sizes)]
        probabilities, boxes = self.roi_head.scores(levels, sizes, proposals)
        ratios = (sizes / originals).flip(1).repeat(1, 2)  # x, y, x, y
        found = [
            best_of_classes(
                b / ratio.to(b),
                p,
                threshold=self.config.score_threshold,
                most=self.config.max_detections,
                soft=self.config.soft_nms,
            )
            for b, p, ratio in zip(boxes, probabilities, ratios, strict=True)
        ]
        masks: list[Tensor] | list[None] = [None] * len(found)
        if self.config.masks:
            seen = [f[0] * ratio.to(f[0]) for f, ratio in zip(found, ratios, strict=True)]
            masks = self.roi_head.mask_probabilities(levels, seen, [f[2] for f in found])
        return [Detections(*f, m) for f, m in zip(found, masks, strict=True)]

    def forward(
        self,
        images: Tensor,
        sizes: Tensor,
        targets: list[Target] | None = None,
        originals: Tensor | None = None,
    ) -> dict[str, Tensor] | list[Detections]:
        """`losses` with targets, else `detect`; boxes then are in pixels of the input by default.

        A graph is built and weights are looked up in here only, whoever calls.
        """
        if targets is not None:
            return self.losses(images, sizes, targets)
        return self.detect(images, sizes, sizes if originals is None else originals)


def _usable(target: Target) -> Target:
    """An object needs a width and a height to be learnt: its logarithm would be infinite."""
    keep = nonempty(target.boxes)
    if bool(keep.all()):
        return target
    masks = None if target.masks is None else target.masks[keep]
    return Target(target.boxes[keep], target.labels[keep], masks)


_SYSTEMS = {"mask_rcnn_": False, "cascade_mask_rcnn_": True}  # beginning of a name: cascade?
_BODIES = (
    *(f"convnext_{size}" for size in ("tiny", "small", "base", "large", "xlarge")),
    *(f"convnextv2_{size}" for size in ("atto", "femto", "pico", "nano")),
    *(f"convnextv2_{size}" for size in ("tiny", "base", "large", "huge")),
    *(f"slak_{size}" for size in ("tiny", "small", "base")),
    *(f"replknet_{size}" for size in ("31b", "31l", "xl")),
)
DETECTORS = {
    system + body: MaskRCNNConfig(backbone=body, cascade=cascade)
    for system, cascade in _SYSTEMS.items()
    for body in _BODIES
}


def detector_config(name: str) -> MaskRCNNConfig:
    """The configuration of a detector by its name, with the 80 classes of COCO.

    Args:
        name: "mask_rcnn_" or "cascade_mask_rcnn_" and the name of any network with four stages, or
            "timm:" and timm's name of one.

    Raises:
        ValueError: there is no such system or network; the nearest names are given.
    """
    for system, cascade in _SYSTEMS.items():
        if (body := name.removeprefix(system)) != name and (is_model(body) or ":" in body):
            return MaskRCNNConfig(backbone=body, cascade=cascade)
    raise unknown("detector", name, DETECTORS)
