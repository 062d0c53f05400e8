"""Convolution, batch norm and ReLU; and the enlarging of one map to the size of another."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from convnext.ops.dispatch import use_reference
from convnext.ops.pyramid_convolution import pyramid_conv2d, pyramid_join

__all__ = ["ConvNormReLU", "PyramidConvNormReLU", "upsample"]


class ConvNormReLU(nn.Module):
    """relu(batch_norm(conv(x))), same size.

    Args:
        in_dim: channels of the input.
        dim: channels of the output.
        kernel_size: odd side of the kernel.
    """

    def __init__(self, in_dim: int, dim: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_dim, dim, kernel_size, padding=kernel_size // 2, bias=False)
        self.bn = nn.BatchNorm2d(dim)
        self.relu = nn.ReLU(inplace=True)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_dim, H, W) to (N, dim, H, W)."""
        y: Tensor = self.relu(self.bn(self.conv(x)))
        return y


class PyramidConvNormReLU(ConvNormReLU):
    """The same of several maps, each enlarged to the size of the first and all joined."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor:  # type: ignore[override]
        """(N, C_i, H_i, W_i), `in_dim` channels in all, to (N, dim, H_0, W_0)."""
        if use_reference():
            return super().forward(pyramid_join(maps))
        y: Tensor = self.relu(self.bn(pyramid_conv2d(maps, self.conv.weight)))
        return y


def upsample(x: Tensor, like: Tensor) -> Tensor:
    """Enlarge a map (N, C, h, w) to the height and width of another, bilinear between centres."""
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)
