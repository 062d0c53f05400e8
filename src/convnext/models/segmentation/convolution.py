"""Convolution, batch norm and ReLU; and the enlarging of one map to the size of another."""

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ConvNormReLU", "upsample"]


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


def upsample(x: Tensor, like: Tensor) -> Tensor:
    """Enlarge a map (N, C, h, w) to the height and width of another, bilinear between centres."""
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)
