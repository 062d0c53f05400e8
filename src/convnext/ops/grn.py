"""Global response normalisation of ConvNeXt V2."""

import torch
from torch import Tensor


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
