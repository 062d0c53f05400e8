"""UPerNet for semantic segmentation on any backbone with four maps of strides 4 to 32.

    image --backbone--> 4 maps --decode_head--> logits at stride 4 --bilinear--> logits
                         third map --auxiliary_head--> a second loss in training

Settings are those of the published ConvNeXt networks for ADE20K, every width a field. Names of
tensors are the published ones, but for the body of the backbone, which keeps its own.

Sources: Xiao et al., Unified Perceptual Parsing for Scene Understanding, ECCV 2018; Liu et al.,
ConvNeXt, section 4 and appendix A.3; Woo et al., ConvNeXt V2, section 5.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from convnext.models.map_backbone import MapBackbone
from convnext.models.registry import build_model, is_model, unknown
from convnext.models.segmentation.convolution import upsample
from convnext.models.segmentation.heads import AuxiliaryHead, UPerHead

__all__ = ["MIN_SIDE", "SEGMENTERS", "UPerNet", "UPerNetConfig", "segmenter_config"]

MIN_SIDE = 32  # pixels; the deepest map of a smaller image is empty
AUXILIARY_MAP = 2  # the third
# Far above what is of use: a damaged or hostile file shall not ask for millions of layers.
MOST_SCALES, LARGEST_SCALE = 16, 64


@dataclass(frozen=True, kw_only=True)
class UPerNetConfig:
    """A segmentation network.

    Attributes:
        backbone: name of a network with four stages.
        num_classes: classes of pixels.
        in_chans: input channels.
        drop_path_rate: stochastic depth of the backbone's last block.
        head_dim: channels of the pyramid.
        pool_scales: parts along a side of each map of the pyramid pooling, up to 16 of up to 64.
        aux_dim: channels of the auxiliary head; 0 leaves it out.
        dropout: share of the channels that training leaves out before the last layers.

    Raises:
        ValueError: a value is out of its range.
    """

    backbone: str = "convnext_tiny"
    num_classes: int = 150
    in_chans: int = 3
    drop_path_rate: float = 0.0
    head_dim: int = 512
    pool_scales: tuple[int, ...] = (1, 2, 3, 6)
    aux_dim: int = 256
    dropout: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "pool_scales", tuple(self.pool_scales))  # JSON has lists only
        for name in ("num_classes", "in_chans", "head_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        if self.aux_dim < 0:
            raise ValueError(f"aux_dim {self.aux_dim} must be at least 1, or 0 for no such head")
        scales = self.pool_scales
        if len(scales) > MOST_SCALES:
            raise ValueError(f"{len(scales)} pool_scales; give at most {MOST_SCALES}")
        if not all(1 <= scale <= LARGEST_SCALE for scale in scales):
            raise ValueError(f"pool_scales {scales} must be from 1 to {LARGEST_SCALE} each")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout} must be at least 0, below 1")


class UPerNet(nn.Module):
    """The network.

    Args:
        config: its settings.
        body: the network below the heads; by default a new one of `config.backbone`. It returns
            four maps and has `feature_info`.

    Raises:
        ValueError: the backbone has not four maps of strides 4 to 32.
    """

    def __init__(self, config: UPerNetConfig, body: nn.Module | None = None) -> None:
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
        channels = self.backbone.channels
        self.decode_head = UPerHead(
            channels, config.head_dim, config.pool_scales, config.num_classes, config.dropout
        )
        self.auxiliary_head: AuxiliaryHead | None = None
        if config.aux_dim:
            self.auxiliary_head = AuxiliaryHead(
                channels[AUXILIARY_MAP], config.aux_dim, config.num_classes, config.dropout
            )

    def heads(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits of both heads, at their own sizes; of the auxiliary one in training only.

        Args:
            images: (N, C, H, W), normalised, of any size from 32 x 32 on.

        Returns:
            (N, K, H / 4, W / 4), and (N, K, H / 16, W / 16) or None.

        Raises:
            ValueError: the images are smaller.
        """
        if min(images.shape[2:]) < MIN_SIDE:
            raise ValueError(
                f"images of {images.shape[2]}x{images.shape[3]} pixels: both sides must be at "
                f"least {MIN_SIDE}; enlarge or pad them"
            )
        maps = self.backbone(images)
        main = self.decode_head(maps)
        if self.auxiliary_head is None or not self.training:
            return main, None
        return main, self.auxiliary_head(maps[AUXILIARY_MAP])

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor | None]:
        """Images (N, C, H, W), normalised, to logits (N, K, H, W) of the main head.

        In training: to what `heads` returns, as losses enlarge logits in parts of a batch.
        """
        if self.training:
            return self.heads(images)
        return upsample(self.heads(images)[0], images)


_SYSTEM = "upernet_"
_BODIES = (
    *(f"convnext_{size}" for size in ("tiny", "small", "base", "large", "xlarge")),
    *(f"convnextv2_{size}" for size in ("atto", "femto", "pico", "nano")),
    *(f"convnextv2_{size}" for size in ("tiny", "base", "large", "huge")),
    *(f"slak_{size}" for size in ("tiny", "small", "base")),
    *(f"replknet_{size}" for size in ("31b", "31l", "xl")),
)
SEGMENTERS = {_SYSTEM + body: UPerNetConfig(backbone=body) for body in _BODIES}


def segmenter_config(name: str) -> UPerNetConfig:
    """The configuration of a segmentation network by its name, with the 150 classes of ADE20K.

    Args:
        name: "upernet_" and the name of any network with four stages, or "timm:" and timm's name of
            one.

    Raises:
        ValueError: there is no such network; the nearest names are given.
    """
    body = name.removeprefix(_SYSTEM)
    if body != name and (is_model(body) or ":" in body):
        return UPerNetConfig(backbone=body)
    raise unknown("segmentation network", name, SEGMENTERS)
