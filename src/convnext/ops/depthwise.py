"""Depthwise convolution with "same" zero padding, faster to train on CPUs.

The forward pass is the library's. In the backward pass, ATen's weight gradient takes most of a
CPU training step (half of it for ``convnext_atto``), and in bf16 it is two to three times slower
than in fp32; so the weight gradient is computed in fp32, which is also more exact, and the input
gradient as what it is: a depthwise convolution with the kernel turned by 180°.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convnext.ops.dispatch import use_reference


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """y[n, c] = weight[c] * x[n, c] + bias[c], stride 1, zero padding of half the kernel.

    Args:
        x: (N, C, H, W).
        weight: (C, 1, k, k), k odd.
        bias: (C,).
    """
    wanted = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if not wanted or x.device.type != "cpu" or use_reference():
        return same_conv(x, weight, bias)
    if torch.is_autocast_enabled("cpu"):  # a library operator has to do what autocast does to one
        dtype = torch.get_autocast_dtype("cpu")
        x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    out: Tensor = _depthwise(x, weight, bias)
    return out


def same_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution as the library has it."""
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0])


@torch.library.custom_op("convnext::depthwise_conv2d", mutates_args=())
def _depthwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return same_conv(x, weight, bias)


@_depthwise.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return same_conv(x, weight, bias)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    x, weight = ctx.saved_tensors
    need_x, need_weight, need_bias = ctx.needs_input_grad
    grad_x = same_conv(grad, weight.flip(2, 3), None) if need_x else None
    grad_weight = weight_grad(grad, x, weight).to(weight.dtype) if need_weight else None
    grad_bias = grad.sum((0, 2, 3)) if need_bias else None
    return grad_x, grad_weight, grad_bias


def weight_grad(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Gradient of the weight, in fp32 at least."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    padding = weight.shape[-1] // 2
    grads: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        grad.to(dtype),
        x.to(dtype),
        weight.to(dtype),
        None,
        stride=[1, 1],
        padding=[padding, padding],
        dilation=[1, 1],
        transposed=False,
        output_padding=[0, 0],
        groups=weight.shape[0],
        output_mask=[False, True, False],
    )
    return grads[1]


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], inputs[1])


_depthwise.register_autograd(_backward, setup_context=_setup)
