"""The fused network in plain PyTorch: what the native code computes, and what runs without it."""

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from convnext.ops.cpu.plan import Plan

__all__ = ["block", "downsample", "reference", "stem"]

SMALLEST = 1e-30  # that a row's largest number counts as: the scale of a row of zeros


def reference(plan: Plan, x: Tensor, weights: Iterable[Tensor], eps: float) -> list[Tensor]:
    """Every stage's map and the mean over positions of the last one.

    The weights have absorbed what is linear around each product: LayerNorms inside the network
    have no scale and shift of their own, blocks no layer scale, GRN no shift.

    Args:
        plan: The network.
        x: (N, in_chans, H, W), fp32.
        weights: In the order and the shapes of the plan's slots.
        eps: Of every LayerNorm.

    Returns:
        Maps (N, C_i, H_i, W_i), and (N, C).
    """
    left, flags = iter(weights), iter(plan.flags)
    x = stem(plan, x, left, eps)
    maps = []
    for i, depth in enumerate(plan.depths):
        if i:
            x = downsample(x, left, eps)
        for _ in range(depth):
            x = block(x, left, eps, grn=plan.grn, quantised=next(flags))
        maps.append(x.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last))
    return [*maps, x.mean((1, 2))]


def stem(plan: Plan, x: Tensor, left: Iterator[Tensor], eps: float) -> Tensor:
    """Images (N, in_chans, H, W) to the first map, (N, H', W', C)."""
    weight = next(left).view(plan.dims[0], plan.in_chans, plan.stem_kernel, plan.stem_kernel)
    x = x.contiguous(memory_format=torch.channels_last)
    x = F.conv2d(x, weight, next(left), plan.stem_stride, plan.stem_padding)
    x = x.permute(0, 2, 3, 1)
    if plan.stem_norm:
        x = F.layer_norm(x, x.shape[-1:], next(left), next(left), eps)
    return x


def downsample(x: Tensor, left: Iterator[Tensor], eps: float) -> Tensor:
    """(N, H, W, C) to (N, H // 2, W // 2, C')."""
    channels = x.shape[-1]
    x = F.layer_norm(x, (channels,), eps=eps).permute(0, 3, 1, 2)
    weight = next(left)
    weight = weight.view(-1, 2, 2, channels).permute(0, 3, 1, 2)
    return F.conv2d(x, weight, next(left), stride=2).permute(0, 2, 3, 1)


def block(
    x: Tensor,
    left: Iterator[Tensor],
    eps: float,
    *,
    grn: bool,
    quantised: bool = False,
    see: Callable[[Tensor, Tensor], None] | None = None,
) -> Tensor:
    """One block on (N, H, W, C).

    Args:
        x: Its input.
        left: Its weights come next.
        eps: Of the LayerNorm.
        grn: Whether it has global response normalisation.
        quantised: Whether its products are of integers.
        see: Of a block that is not: is shown what its two products take, (N, H, W, C) and
            (N, H, W, 4C).
    """
    y = _mixed(x, left, eps)
    if quantised:
        return x + _quantised_mlp(y, left, grn)
    rows = y
    y = F.gelu(F.linear(rows, next(left).flatten(1), next(left)))  # N, H, W, 4C
    if grn:
        y = y * _response_scale(y, next(left))
    if see is not None:
        see(rows, y)
    return x + F.linear(y, next(left).flatten(1), next(left))


def _mixed(x: Tensor, left: Iterator[Tensor], eps: float) -> Tensor:
    """Depthwise convolution and LayerNorm: what the first product of a block takes."""
    channels = x.shape[-1]
    taps = next(left).t().reshape(channels, 1, 7, 7)
    y = F.conv2d(x.permute(0, 3, 1, 2), taps, next(left), padding=3, groups=channels)
    return F.layer_norm(y.permute(0, 2, 3, 1), (channels,), eps=eps)


def _response_scale(y: Tensor, gamma: Tensor) -> Tensor:
    """The factor of GRN, 1 + γ N, of (N, H, W, C)."""
    norm = torch.linalg.vector_norm(y, dim=(1, 2), keepdim=True)
    scale: Tensor = 1 + gamma * norm / (norm.mean(-1, keepdim=True) + 1e-6)
    return scale


def _quantised_mlp(y: Tensor, left: Iterator[Tensor], grn: bool) -> Tensor:
    """Both products on integers, here in fp32, which has them exactly up to 2^24.

    A row of the first operand, its channels times factors, has the scale that makes its largest
    number 127; each channel of the second a scale, and all one zero point, which 8 unsigned bits
    limit. The native code stores both without sign and begins its sums with what takes their zero
    points away again; the start values do that, so there is nothing to do for them here.
    """
    y = y * next(left)
    weight, _, unit, bias = (next(left) for _ in range(4))
    largest = y.abs().amax(-1, keepdim=True).clamp(min=SMALLEST)
    y = (y * (127 / largest)).round()
    y = F.gelu(F.linear(y, weight.flatten(1)) * (largest / 127 * unit) + bias)
    if grn:
        y = y * _response_scale(y, next(left))
    inverse, zero = next(left), float(next(left))
    weight, _, unit, bias = (next(left) for _ in range(4))
    y = (y * inverse).clamp(-zero, 255 - zero).round()
    return F.linear(y, weight.flatten(1)) * unit + bias
