"""Pyramid pooling: means of a map over grids of few parts, seen beside the map itself."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from convnext.models.segmentation.convolution import ConvNormReLU, PyramidConvNormReLU

__all__ = ["AveragePool", "PyramidPool"]


class AveragePool(nn.Module):
    """Means over `size` x `size` parts of a map, which may overlap by a row or column.

    Part i of n of a side of length L covers floor(i L / n) up to, not including,
    ceil((i + 1) L / n). Written as a product with two small matrices made from the map's shape:
    the same function as adaptive average pooling, but it can be exported with free sizes, and its
    gradient on CUDA is a sum in one order.

    Args:
        size: parts along each side.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, size, size)."""
        rows = _shares(x.shape[2], self.size, x)  # (size, H)
        columns = _shares(x.shape[3], self.size, x)  # (size, W)
        # As four dimensions: what the exporter makes of fewer holds for some sizes only.
        return rows[None, None] @ x @ columns.T[None, None]

    def extra_repr(self) -> str:
        """The number of parts, for print."""
        return f"size={self.size}"


def _shares(length: int, parts: int, like: Tensor) -> Tensor:
    """(parts, length): the share that each place has in each part's mean."""
    part = torch.arange(parts, device=like.device)[:, None]
    place = torch.arange(length, device=like.device)
    first = part * length // parts
    end = ((part + 1) * length + parts - 1) // parts
    inside = (place >= first) & (place < end)
    return inside.to(like.dtype) / (end - first)


class PyramidPool(nn.Module):
    """The deepest map joined with its means over grids of parts.

        y = conv3x3(concat(x, up(conv1x1(pool_1(x))), up(conv1x1(pool_2(x))), ...))

    Args:
        in_dim: channels of the map.
        dim: channels of each pooled map and of the result.
        scales: parts along a side, of each pooled map.

    Source: Zhao et al., Pyramid Scene Parsing Network, CVPR 2017, section 3.2.
    """

    def __init__(self, in_dim: int, dim: int, scales: Sequence[int]) -> None:
        super().__init__()
        self.psp_modules = nn.ModuleList(
            nn.Sequential(AveragePool(scale), ConvNormReLU(in_dim, dim, 1)) for scale in scales
        )
        self.bottleneck = PyramidConvNormReLU(in_dim + len(scales) * dim, dim, 3)

    def pool(self, x: Tensor) -> Tensor:
        """(N, in_dim, H, W) to (N, dim, H, W)."""
        y: Tensor = self.bottleneck([x, *(module(x) for module in self.psp_modules)])
        return y
