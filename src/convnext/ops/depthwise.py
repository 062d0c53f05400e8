"""Depthwise convolution with "same" zero padding, any odd kernel, fast to train on CPUs.

The library's forward pass is fast on CPUs in one memory format only: with channels last a 31x31
kernel takes a thirtieth of the time. Its weight gradient is slow in both: it takes half of a
training step with 7x7 kernels and nearly all of one with large ones. So

- large kernels get their input with channels last, and are cut to the part that a map can reach;
- the input gradient is what it is: a depthwise convolution with the kernel turned by 180°;
- the weight gradient is computed in fp32, either by the library or as what it is, too: the
  correlation of input and gradient, a depthwise convolution whose kernel is the gradient's map.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convnext.ops.dispatch import use_reference

# Kernels of more taps are large: the library's contiguous path is slower than a copy to the other.
LARGE = 121


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y[n, c] = weight[c] * x[n, c] + bias[c], stride 1, zero padding of half the kernel.

    Args:
        x: (N, C, H, W).
        weight: (C, 1, k_h, k_w), both sides odd; what reaches beyond 2H - 1 or 2W - 1 touches
            zeros alone and is left out.
        bias: (C,), if any.
    """
    wanted = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if use_reference():
        return same_conv(x, weight, bias)
    if not torch.compiler.is_compiling():
        weight = reachable(weight, x.shape[-2], x.shape[-1])
    if x.device.type != "cpu":
        return same_conv(x, weight, bias)
    if weight[0].numel() > LARGE:
        x = x.contiguous(memory_format=torch.channels_last)
    if not wanted:
        return same_conv(x, weight, bias)
    if torch.is_autocast_enabled("cpu"):  # a library operator has to do what autocast does to one
        dtype = torch.get_autocast_dtype("cpu")
        x, weight = x.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    out: Tensor = _depthwise(x, weight, bias)
    return out


def reachable(weight: Tensor, height: int, width: int) -> Tensor:
    """The centre of a kernel that can meet pixels of a map: at most 2H - 1 by 2W - 1."""
    k_h, k_w = weight.shape[-2:]
    cut_h, cut_w = max(0, k_h // 2 - height + 1), max(0, k_w // 2 - width + 1)
    if not cut_h and not cut_w:
        return weight
    return weight[..., cut_h : k_h - cut_h, cut_w : k_w - cut_w]


def same_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution as the library has it."""
    padding = (weight.shape[-2] // 2, weight.shape[-1] // 2)
    return F.conv2d(x, weight, bias, padding=padding, groups=weight.shape[0])


@torch.library.custom_op("convnext::depthwise_conv2d", mutates_args=())
def _depthwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return same_conv(x, weight, bias)


@_depthwise.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return same_conv(x, weight, bias)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    x, weight = ctx.saved_tensors
    need_x, need_weight, need_bias = ctx.needs_input_grad
    if weight[0].numel() > LARGE:
        grad = grad.contiguous(memory_format=torch.channels_last)
    grad_x = same_conv(grad, weight.flip(2, 3), None) if need_x else None
    grad_weight = weight_grad(grad, x, weight).to(weight.dtype) if need_weight else None
    grad_bias = grad.sum((0, 2, 3)) if need_bias else None
    return grad_x, grad_weight, grad_bias


def weight_grad(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Gradient of the weight, in fp32 at least."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    grad, x = grad.to(dtype), x.to(dtype)
    # Small maps make small kernels of the correlation; large kernels are slow in the library.
    if weight[0].numel() > LARGE or x.shape[-2] * x.shape[-1] <= 196:
        return _correlation(grad, x, weight)
    padding = [weight.shape[-2] // 2, weight.shape[-1] // 2]
    grads: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        grad,
        x,
        weight.to(dtype),
        None,
        stride=[1, 1],
        padding=padding,
        dilation=[1, 1],
        transposed=False,
        output_padding=[0, 0],
        groups=weight.shape[0],
        output_mask=[False, True, False],
    )
    return grads[1]


def _correlation(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """dw[c, i, j] = Σ over n, h, w of grad[n, c, h, w] · x[n, c, h + i - p, w + j - p].

    Every map of every image is a channel, and its gradient the kernel that passes over it.
    """
    n, c, height, width = x.shape
    k_h, k_w = weight.shape[-2:]

    def channels_last(maps: Tensor) -> Tensor:  # (1, N·C, H, W)
        return maps.permute(2, 3, 0, 1).reshape(1, height, width, n * c).permute(0, 3, 1, 2)

    kernel = channels_last(grad).transpose(0, 1)  # N·C, 1, H, W
    out = F.conv2d(channels_last(x), kernel, padding=(k_h // 2, k_w // 2), groups=n * c)
    return out.view(n, c, k_h, k_w).sum(0)[:, None]


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], inputs[1])


_depthwise.register_autograd(_backward, setup_context=_setup)
