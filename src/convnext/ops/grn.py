"""Global response normalisation of ConvNeXt V2."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def grn(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-6) -> Tensor:
    """Global response normalisation over the positions of each sample.

    G_c = ‖x_{:,:,c}‖₂ over (H, W); N_c = G_c / (mean over channels of G + eps);
    y = γ·(x·N) + β + x. The norms are taken in fp32 at least, since a sum of squares
    overflows fp16 and loses digits in bf16.

    Args:
        x: (N, H, W, C).
        gamma: (C,), zero at the start of training (identity).
        beta: (C,), likewise.
        eps: Added to the mean.

    Source: ConvNeXt V2, equations 1-3 and algorithm 1. The paper's equation divides by the sum
    over channels, the code by the mean; this is the mean (a factor C that γ absorbs).
    """
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        out: Tensor = _Grn.apply(x, gamma, beta, eps)
        return out
    exact = torch.promote_types(x.dtype, torch.float32)
    gx = torch.linalg.vector_norm(x, ord=2, dim=(1, 2), keepdim=True, dtype=exact)
    nx = gx / (gx.mean(dim=-1, keepdim=True) + eps)
    # γ·(x·N) + β + x = x·(1 + γ·N) + β: one pass over x instead of three.
    scale = torch.addcmul(torch.ones_like(nx), nx, gamma.to(exact))
    return torch.addcmul(beta.to(x.dtype), x, scale.to(x.dtype))


def grn_reference(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-6) -> Tensor:
    """The definition of :func:`grn`, in the operator order of the published code."""
    gx: Tensor = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
    nx = gx / (gx.mean(dim=-1, keepdim=True) + eps)
    return gamma * (x * nx) + beta + x


class _Grn(torch.autograd.Function):
    """GRN on a CPU: sums over positions sample by sample, which stay in the cache.

    With a_c = Σ ∂L/∂y_c · x_c and M = mean of G + eps: ∂L/∂γ_c = Σ_n a_c N_c; ∂L/∂N_c = a_c γ_c;
    ∂L/∂G_c = ∂L/∂N_c / M - Σ_j (∂L/∂N_j G_j) / (C M²); ∂L/∂x = ∂L/∂y · (1 + γ N) + x · ∂L/∂G / G.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
        norm = _sums(x, x).sqrt_()  # N, C
        mean = norm.mean(-1, keepdim=True) + eps
        ctx.save_for_backward(x, gamma, norm, mean)
        scale = 1 + gamma.to(norm.dtype) * (norm / mean)
        return torch.addcmul(beta.to(x.dtype), x, scale.to(x.dtype)[:, None, None])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gamma, norm, mean = ctx.saved_tensors
        ratio, weight = norm / mean, gamma.to(norm.dtype)
        response = _sums(grad, x)  # N, C
        by_ratio = response * weight
        by_norm = by_ratio / mean
        by_norm -= (by_ratio * ratio).mean(-1, keepdim=True) / mean
        factor = torch.where(norm > 0, by_norm / norm, 0.0).to(x.dtype)
        scale = (1 + weight * ratio).to(x.dtype)
        grad_x = torch.addcmul(grad * scale[:, None, None], x, factor[:, None, None])
        grad_gamma = (response * ratio).sum(0).to(gamma.dtype)
        return grad_x, grad_gamma, grad.sum((0, 1, 2)).to(gamma.dtype), None


def _sums(a: Tensor, b: Tensor) -> Tensor:
    """Σ a·b over the positions of each sample, (N, C), in fp32 at least."""
    exact = torch.promote_types(a.dtype, torch.float32)
    if not len(a):
        return a.new_zeros(0, a.shape[-1], dtype=exact)
    products = (p.to(exact) * q.to(exact) for p, q in zip(a, b, strict=True))
    return torch.stack([product.sum((0, 1)) for product in products])
