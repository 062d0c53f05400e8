"""Convolution of maps of several sizes, each enlarged to that of the first and all joined.

    y = conv(concat(x_0, up(x_1), up(x_2), ...))

Enlarging acts on places and the convolution's sum over channels on channels, so that their order
is free: channels are summed where a map is small, once for each tap of the kernel, and what is
enlarged are the sums. For UPerNet, 512 channels and maps of 128 x 128 to 16 x 16, this takes 2.7
times fewer multiplications, and no map of all channels at the largest size.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "pyramid_conv2d",
    "pyramid_conv2d_reference",
    "pyramid_conv2d_small_first",
    "pyramid_join",
]


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
    """`pyramid_conv2d_reference`, by whichever order of sums takes fewer multiplications.

    On other devices than CPUs always by that of the definition: nothing was measured there.
    """
    if maps[0].device.type == "cpu" and _small_first_pays(maps, weight):
        return pyramid_conv2d_small_first(maps, weight)
    return pyramid_conv2d_reference(maps, weight)


def pyramid_conv2d_small_first(maps: Sequence[Tensor], weight: Tensor) -> Tensor:
    """`pyramid_conv2d_reference`, exact but for the order of sums; the result is channels-last.

    For tap (r, c) of the kernel let z_rc = x W_rc, a sum over the channels of each place. With
    A_r[h, i] the share that row i of the small map has in row h + r - k // 2 of the large one (none
    beyond the edge), and B_c the same for columns, a map adds sum_r A_r (sum_c B_c z_rc).
    """
    first, *others = maps
    own, *parts = torch.split(weight, [x.shape[1] for x in maps], 1)
    y = F.conv2d(first, own, padding=weight.shape[2] // 2)
    n, d, height, width = y.shape
    if not others:
        return y.contiguous(memory_format=torch.channels_last)
    rows = [_shares(x.shape[2], height, weight.shape[2], y) for x in others]  # each (H, k h)
    wide = [z for x, w in zip(others, parts, strict=True) for z in _widened_sums(x, w, width)]
    y = torch.baddbmm(  # all maps at once: low precision rounds once
        y.permute(0, 2, 3, 1).reshape(n, height, width * d),
        torch.cat(rows, 1).expand(n, -1, -1),
        torch.cat(wide, 1),
    )
    return y.view(n, height, width, d).permute(0, 3, 1, 2)


def _small_first_pays(maps: Sequence[Tensor], weight: Tensor) -> bool:
    """Whether it takes fewer multiplications; not where channels are few and maps wide."""
    k = weight.shape[2]
    (height, width), saved = maps[0].shape[2:], 0
    for x in maps[1:]:
        channels, h, w = x.shape[1:]
        saved += channels * k * k * (height * width - h * w)
        saved -= h * k * width * (w * k) + height * (h * k) * width
    return saved > 0


def _widened_sums(x: Tensor, weight: Tensor, width: int) -> Iterator[Tensor]:
    """Of (N, C, h, w) and (D, C, k, k) for each r the sum over c of B_c z_rc, (N, h, W D)."""
    n, channels, h, w = x.shape
    d, _, k, _ = weight.shape
    columns = _shares(w, width, k, x).view(width, k, w).transpose(1, 2).reshape(1, width, w * k)
    places = x.permute(0, 2, 3, 1).reshape(n * h * w, channels)
    for matrix in weight.permute(2, 3, 0, 1).reshape(k, k * d, channels).unbind():
        z = F.linear(places, matrix).view(n * h, w * k, d)
        yield torch.bmm(columns.expand(n * h, -1, -1).to(z.dtype), z).view(n, h, width * d)


def _shares(small: int, large: int, k: int, like: Tensor) -> Tensor:
    """(large, k small): A_r or B_c of `pyramid_conv2d_small_first`, side by side."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    small_places = torch.arange(small, device=like.device, dtype=dtype)
    offsets = torch.arange(k, device=like.device, dtype=dtype) - k // 2
    places = torch.arange(large, device=like.device, dtype=dtype)[:, None] + offsets  # (large, k)
    there = ((places + 0.5) * small / large - 0.5).clamp(0, small - 1)[..., None]
    inside = ((places >= 0) & (places < large))[..., None]
    shares = (1 - (there - small_places).abs()).clamp(min=0) * inside
    return shares.flatten(1).to(like.dtype)
