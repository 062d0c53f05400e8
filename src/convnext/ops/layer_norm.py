"""Layer normalisation over the channels of an (N, C, H, W) map."""

import torch
import torch.nn.functional as F
from torch import Tensor

from convnext.ops.dispatch import use_reference


def layer_norm_2d_reference(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """The definition, as the sequence of primitive operations of the published code.

    y = (x - u) / sqrt(s + eps) · weight + bias, with u and s the mean and the biased variance over
    the C channels at each position.

    Args:
        x: (N, C, H, W).
        weight: (C,).
        bias: (C,).
        eps: Added to the variance; 1e-6 everywhere in ConvNeXt.

    Source: ConvNeXt code, ``channels_first`` layer norm of the stem and the downsampling layers.
    """
    u = x.mean(1, keepdim=True)
    s = (x - u).pow(2).mean(1, keepdim=True)
    x = (x - u) / torch.sqrt(s + eps)
    return weight[:, None, None] * x + bias[:, None, None]


def layer_norm_2d(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Layer norm over dim 1 of (N, C, H, W); the layout in memory of ``x`` may change.

    The fused kernel normalises the last dimension, which costs no copy in channels-last memory.
    """
    if use_reference():
        return layer_norm_2d_reference(x, weight, bias, eps)
    x = F.layer_norm(x.permute(0, 2, 3, 1), weight.shape, weight, bias, eps)
    return x.permute(0, 3, 1, 2)
