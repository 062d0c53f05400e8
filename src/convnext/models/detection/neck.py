"""Feature pyramid: maps of a backbone to five maps of the same width."""

from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["FPN", "NamedConv"]


class NamedConv(nn.Module):
    """A convolution under the name `conv`, as the published state dicts have it."""

    def __init__(self, in_dim: int, dim: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_dim, dim, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C, H, W)."""
        return cast(Tensor, self.conv(x))


class FPN(nn.Module):
    """Lateral 1x1 convolutions, sums from the top down, 3x3 convolutions, one more level.

    Args:
        channels: of the maps, shallow to deep.
        dim: of all levels that come out.

    Source: Lin et al., Feature Pyramid Networks, CVPR 2017, section 3; P6 as in its section 4.1.
    """

    def __init__(self, channels: list[int], dim: int) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(NamedConv(c, dim, 1) for c in channels)
        self.fpn_convs = nn.ModuleList(NamedConv(dim, dim, 3) for _ in channels)
        for conv in (m for m in self.modules() if isinstance(m, nn.Conv2d)):
            nn.init.xavier_uniform_(conv.weight)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps (N, C_i, H_i, W_i) to P2, P3, ... and one of half the last size, all (N, C, ...)."""
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, maps, strict=True)]
        for i in range(len(laterals) - 1, 0, -1):
            below = laterals[i - 1]
            laterals[i - 1] = below + F.interpolate(laterals[i], below.shape[-2:], mode="nearest")
        levels = [conv(x) for conv, x in zip(self.fpn_convs, laterals, strict=True)]
        return [*levels, F.max_pool2d(levels[-1], 1, stride=2)]
