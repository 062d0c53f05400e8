"""The effective receptive field: which input pixels the centre of the last map depends on."""

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

__all__ = ["THRESHOLDS", "contributions", "high_contribution_areas", "scaled"]

THRESHOLDS = (0.2, 0.3, 0.5, 0.99)


def contributions(network: nn.Module, batches: Iterable[Tensor]) -> Tensor:
    """Mean contribution of every input pixel to the centre of the last feature map.

    P = 1/N Σ_n Σ_c max(0, ∂ Σ_k max(0, F_k(h/2, w/2)) / ∂ x_nc), in full precision.

    Args:
        network: With `forward_features` to (N, C, h, w), in evaluation mode.
        batches: Images (N, in_chans, H, W) on the network's device, all of one size.

    Returns:
        (H, W) float64, not negative.

    Raises:
        ValueError: There is no image.

    Source: Ding et al., "Scaling Up Your Kernels to 31x31" (RepLKNet), section 5 and published
    code; Liu et al., SLaK, appendix.
    """
    total, number = None, 0
    for images in batches:
        images = images.detach().clone().requires_grad_()
        with torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
            features: Tensor = cast(Any, network).forward_features(images)
            h, w = features.shape[-2:]
            centre = features[:, :, h // 2, w // 2].relu().sum()
            (gradient,) = torch.autograd.grad(centre, images)
        part = gradient.relu().sum((0, 1)).double().cpu()
        total = part if total is None else total + part
        number += len(images)
    if total is None:
        raise ValueError("no image to compute the receptive field on")
    return total / number


def scaled(contribution: Tensor) -> Tensor:
    """log10(P + 1) divided by its maximum, (H, W) in 0..1: contributions differ by magnitudes."""
    logarithm = torch.log10(contribution + 1)
    return logarithm / logarithm.max().clamp_min(torch.finfo(logarithm.dtype).tiny)


def high_contribution_areas(contribution: Tensor) -> dict[float, tuple[int, float] | None]:
    """For each share t of `THRESHOLDS` the smallest centred square that holds more than it.

    Args:
        contribution: (H, W) as `contributions` gives it; it is scaled as by `scaled`.

    Returns:
        t -> (side 2i+1 in pixels, side² / HW); None where no square with i < H/2 does.

    Source: RepLKNet, table 10, high-contribution area ratio r.
    """
    values = scaled(contribution)
    height, width = values.shape
    total = values.sum().item()
    found: dict[float, tuple[int, float] | None] = dict.fromkeys(THRESHOLDS)
    for i in range(1, height // 2):
        rows = slice(height // 2 - i, height // 2 + 1 + i)
        columns = slice(max(0, width // 2 - i), width // 2 + 1 + i)
        share = values[rows, columns].sum().item() / total if total else 0.0
        side = 2 * i + 1
        for threshold in THRESHOLDS:
            if found[threshold] is None and share > threshold:
                found[threshold] = (side, side * side / (height * width))
    return found
