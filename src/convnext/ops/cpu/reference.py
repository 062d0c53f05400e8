"""The fused network in plain PyTorch: what the native code computes, and what runs without it."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from convnext.ops.cpu.plan import Plan

__all__ = ["reference"]


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
    left = iter(weights)
    dims, kernel = plan.dims, plan.stem_kernel
    weight = next(left).view(dims[0], plan.in_chans, kernel, kernel)
    x = x.contiguous(memory_format=torch.channels_last)
    x = F.conv2d(x, weight, next(left), plan.stem_stride, plan.stem_padding)
    x = x.permute(0, 2, 3, 1)  # N, H, W, C
    if plan.stem_norm:
        x = F.layer_norm(x, x.shape[-1:], next(left), next(left), eps)
    maps = []
    for i, (depth, dim) in enumerate(zip(plan.depths, dims, strict=True)):
        if i:
            x = F.layer_norm(x, x.shape[-1:], eps=eps).permute(0, 3, 1, 2)
            weight = next(left).view(dim, 2, 2, dims[i - 1]).permute(0, 3, 1, 2)
            x = F.conv2d(x, weight, next(left), stride=2).permute(0, 2, 3, 1)
        for _ in range(depth):
            x = _block(x, left, plan.grn, eps)
        maps.append(x.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last))
    return [*maps, x.mean((1, 2))]


def _block(x: Tensor, left: Iterable[Tensor], grn: bool, eps: float) -> Tensor:
    """One block on (N, H, W, C)."""
    left = iter(left)
    taps = next(left).t().reshape(x.shape[-1], 1, 7, 7)
    y = F.conv2d(x.permute(0, 3, 1, 2), taps, next(left), padding=3, groups=x.shape[-1])
    y = F.layer_norm(y.permute(0, 2, 3, 1), x.shape[-1:], eps=eps)
    y = F.gelu(F.linear(y, next(left).flatten(1), next(left)))  # N, H, W, 4C
    if grn:
        norm = torch.linalg.vector_norm(y, dim=(1, 2), keepdim=True)
        y = y * (1 + next(left) * norm / (norm.mean(-1, keepdim=True) + 1e-6))
    return x + F.linear(y, next(left).flatten(1), next(left))
