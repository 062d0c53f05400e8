"""Structural re-parameterisation: batch norms folded into the convolutions beside them.

In evaluation mode y = (x - mean) / sqrt(var + eps) · γ + β is one factor and one summand a channel.
A convolution before it takes both into its weight and bias, and so does an unpadded one after it.
Modules that can be merged have a method ``merged_state``: the state dict of the same module built
with ``merged=True``. Source: RepLKNet, CVPR 2022, section 3.1, guideline 3.
"""

from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

__all__ = ["ConvNorm", "affine", "fold_after", "fold_before", "merged_state"]

Norm = nn.modules.batchnorm._BatchNorm  # of one process or synchronised over all
State = dict[str, Tensor]


@runtime_checkable
class Mergeable(Protocol):
    """A module with a merged form."""

    def merged_state(self) -> State:
        """State dict of the merged form."""


def merged_state(module: nn.Module) -> State:
    """The state dict of a module's merged form: parts that cannot be merged as they are."""
    if isinstance(module, Mergeable):
        return module.merged_state()
    own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    state = {name: tensor.detach() for name, tensor in own}
    for name, child in module.named_children():
        state |= {f"{name}.{key}": tensor for key, tensor in merged_state(child).items()}
    return state


def affine(norm: Norm) -> tuple[Tensor, Tensor]:
    """Factor and summand of a batch norm in evaluation mode, in double precision."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None, "a norm without statistics cannot be folded"
    assert variance is not None
    factor = norm.weight.detach().double() / (variance.double() + norm.eps).sqrt()
    return factor, norm.bias.detach().double() - mean.double() * factor


def fold_after(weight: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """Weight (C_out, ...) and bias of a convolution without bias followed by a batch norm."""
    factor, bias = affine(norm)
    shape = (-1, *[1] * (weight.ndim - 1))
    return weight.detach().double() * factor.view(shape), bias


def fold_before(norm: Norm, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (C_out, C_in, ...) and bias of a pointwise layer after a batch norm."""
    factor, summand = affine(norm)
    shape = (1, -1, *[1] * (weight.ndim - 2))
    flat = weight.double().flatten(1)  # exact for kernels of one position only
    return weight.double() * factor.view(shape), bias.double() + flat @ summand


class ConvNorm(nn.Module):
    """A convolution without bias and its batch norm; merged, a convolution with a bias.

    Args:
        conv: The convolution; one with a bias gets no norm.
        norm: Whether there is a norm.
    """

    def __init__(self, conv: nn.Conv2d, norm: bool = True) -> None:
        super().__init__()
        self.conv = conv
        self.norm = nn.BatchNorm2d(conv.out_channels) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C_out, H', W')."""
        return cast(Tensor, self.norm(self.conv(x)))

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the merged form, in double precision."""
        return fold_after(self.conv.weight, cast(Norm, self.norm))

    def merged_state(self) -> State:
        """State dict of the merged form."""
        weight, bias = self.folded()
        return conv_state(weight, bias, like=self.conv.weight)


def conv_state(
    weight: Tensor, bias: Tensor | None, *, like: Tensor, prefix: str = "conv."
) -> State:
    """Weight and bias under their names, in the precision of ``like``."""
    state = {f"{prefix}weight": weight.to(like.dtype)}
    if bias is not None:
        state[f"{prefix}bias"] = bias.to(like.dtype)
    return {name: torch.clone(tensor) for name, tensor in state.items()}
