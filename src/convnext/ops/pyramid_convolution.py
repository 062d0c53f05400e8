"""Convolution of maps of several sizes, each enlarged to that of the first and all joined.

    y = conv(concat(x_0, up(x_1), up(x_2), ...))

Enlarging acts on places and the convolution's sum over channels on channels, so that their order
is free: channels are summed where a map is small, once for each tap of the kernel, and what is
enlarged are the sums. A pyramid of four maps, each half as large as the one before, needs 2.7
times fewer multiplications this way, and no map of all channels at the largest size.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["pyramid_conv2d", "pyramid_conv2d_reference", "pyramid_join"]


def pyramid_join(maps: Sequence[Tensor]) -> Tensor:
    """Maps (N, C_i, H_i, W_i) to one, (N, sum of C_i, H_0, W_0), bilinear between centres."""
    first, *others = maps
    enlarged = (F.interpolate(x, first.shape[2:], mode="bilinear") for x in others)
    return torch.cat([first, *enlarged], 1)


def pyramid_conv2d_reference(maps: Sequence[Tensor], weight: Tensor) -> Tensor:
    """The definition, as the sequence of operators of the published code.

    Args:
        maps: (N, C_i, H_i, W_i).
        weight: (D, sum of C_i, k, k), k odd.

    Returns:
        (N, D, H_0, W_0); zeros are beyond the edges.
    """
    return F.conv2d(pyramid_join(maps), weight, padding=weight.shape[2] // 2)


def pyramid_conv2d(maps: Sequence[Tensor], weight: Tensor) -> Tensor:
    """`pyramid_conv2d_reference`, exact but for the order of sums; the result is channels-last.

    For tap (r, c) of the kernel let z_rc = x W_rc, a sum over the channels of each place. With
    A_r[h, i] the share that row i of the small map has in row h + r - k // 2 of the large one (none
    beyond the edge), and B_c the same for columns, a map adds sum_r A_r (sum_c B_c z_rc).
    """
    first, *others = maps
    own, *parts = torch.split(weight, [x.shape[1] for x in maps], 1)
    y = F.conv2d(first, own, padding=weight.shape[2] // 2)
    n, d, height, width = y.shape
    y = y.permute(0, 2, 3, 1).reshape(n, height, width * d)
    for x, part in zip(others, parts, strict=True):
        y = _add_enlarged(y, x, part, width)
    return y.view(n, height, width, d).permute(0, 3, 1, 2)


def _add_enlarged(y: Tensor, x: Tensor, weight: Tensor, width: int) -> Tensor:
    """Add what a smaller map (N, C, h, w) gives with (D, C, k, k) to (N, H, W D)."""
    n, channels, h, w = x.shape
    d, _, k, _ = weight.shape
    rows = _shares(h, y.shape[1], k, y)  # (k, H, h)
    columns = _shares(w, width, k, y).permute(1, 2, 0).reshape(1, width, w * k)
    places = x.permute(0, 2, 3, 1).reshape(n * h * w, channels)
    by_row = weight.permute(2, 3, 0, 1).reshape(k, k * d, channels)
    for share, matrix in zip(rows.unbind(), by_row.unbind(), strict=True):
        z = F.linear(places, matrix).view(n * h, w * k, d)
        z = torch.bmm(columns.expand(n * h, -1, -1), z).view(n, h, width * d)
        y = y.baddbmm_(share.expand(n, -1, -1), z)
    return y


def _shares(small: int, large: int, k: int, like: Tensor) -> Tensor:
    """(k, large, small): A_r or B_c of `pyramid_conv2d`."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    small_places = torch.arange(small, device=like.device, dtype=dtype)
    offsets = torch.arange(k, device=like.device, dtype=dtype) - k // 2
    places = torch.arange(large, device=like.device, dtype=dtype) + offsets[:, None]  # (k, large)
    there = ((places + 0.5) * small / large - 0.5).clamp(0, small - 1)[..., None]
    inside = ((places >= 0) & (places < large))[..., None]
    return ((1 - (there - small_places).abs()).clamp(min=0) * inside).to(like.dtype)
