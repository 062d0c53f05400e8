"""The two heads of UPerNet: pyramid pooling and feature pyramid, and the auxiliary one."""

from collections.abc import Sequence

from torch import Tensor, nn

from convnext.models.segmentation.convolution import ConvNormReLU, PyramidConvNormReLU, upsample
from convnext.models.segmentation.pyramid import PyramidPool

__all__ = ["AuxiliaryHead", "UPerHead"]

LOGITS_STD = 0.01


def _classifier(dim: int, num_classes: int) -> nn.Conv2d:
    layer = nn.Conv2d(dim, num_classes, 1)
    nn.init.normal_(layer.weight, std=LOGITS_STD)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class UPerHead(PyramidPool):
    """Unified perceptual parsing: a feature pyramid over the pooled deepest map.

        p4 = pyramid_pool(c4);  p_i = conv1x1(c_i) + up(p_{i+1})
        y = conv1x1(dropout(conv3x3(concat(conv3x3(p1), up(conv3x3(p2)), up(conv3x3(p3)), up(p4)))))

    Args:
        in_dims: channels of the four maps, shallow to deep.
        dim: channels of the pyramid.
        scales: parts along a side of each pooled map.
        num_classes: classes.
        dropout: share of the channels that training leaves out before the last layer.

    Source: Xiao et al., Unified Perceptual Parsing, ECCV 2018, section 3.2.
    """

    def __init__(
        self,
        in_dims: Sequence[int],
        dim: int,
        scales: Sequence[int],
        num_classes: int,
        dropout: float,
    ) -> None:
        super().__init__(in_dims[-1], dim, scales)
        self.lateral_convs = nn.ModuleList(ConvNormReLU(c, dim, 1) for c in in_dims[:-1])
        self.fpn_convs = nn.ModuleList(ConvNormReLU(dim, dim, 3) for _ in in_dims[:-1])
        self.fpn_bottleneck = PyramidConvNormReLU(len(in_dims) * dim, dim, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = _classifier(dim, num_classes)

    def forward_features(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (N, C_i, H_i, W_i) to what is classified, (N, dim, H_0, W_0)."""
        y: Tensor = self.fpn_bottleneck(self._levels(maps))
        return y

    def _levels(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """All levels of the pyramid, shallow to deep, (N, dim, H_i, W_i)."""
        levels = [self.pool(maps[-1])]  # deep to shallow
        for conv, m in zip(reversed(self.lateral_convs), reversed(maps[:-1]), strict=True):
            lateral = conv(m)
            levels.append(lateral + upsample(levels[-1], lateral))
        deepest, *others = levels
        smooth = [conv(p) for conv, p in zip(self.fpn_convs, reversed(others), strict=True)]
        return [*smooth, deepest]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (N, C_i, H_i, W_i) to logits (N, num_classes, H_0, W_0)."""
        logits: Tensor = self.conv_seg(self.dropout(self.forward_features(maps)))
        return logits


class AuxiliaryHead(nn.Module):
    """A second, shallow head, whose loss helps the backbone to learn.

        y = conv1x1(dropout(conv3x3(x)))

    Args:
        in_dim: channels of the map.
        dim: channels between the two convolutions.
        num_classes: classes.
        dropout: share of the channels that training leaves out before the last layer.

    Source: Zhao et al., Pyramid Scene Parsing Network, CVPR 2017, section 3.3.
    """

    def __init__(self, in_dim: int, dim: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.convs = nn.ModuleList([ConvNormReLU(in_dim, dim, 3)])
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = _classifier(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_dim, H, W) to logits (N, num_classes, H, W)."""
        logits: Tensor = self.conv_seg(self.dropout(self.convs[0](x)))
        return logits
