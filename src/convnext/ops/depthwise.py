"""Depthwise convolution with "same" zero padding: any odd kernel, as fast as the device allows.

On CPUs the library has fast code for some cases only, and its weight gradient is slow in all of
them: it takes half of a training step with 7x7 kernels, nearly all of one with large ones. So

- kernels are cut to the part that can meet pixels of the map;
- wide kernels get their input with channels last, where 31x31 takes a thirtieth of the time;
- the input gradient is what it is: a depthwise convolution with the kernel turned by 180°;
- so is the weight gradient: the correlation of input and gradient, a depthwise convolution whose
  kernel is the gradient's map, computed in fp32.

On GPUs large kernels run in `ops/triton/depthwise.py`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convnext.ops.dispatch import triton_available, use_reference

# A kernel of more taps is large: cuDNN has no fast code for it.
LARGE = 169
# Widest kernel for which oneDNN's code for contiguous maps is not its slow reference loop.
NARROW = {"AVX512": 13, "AVX2": 9}.get(torch.backends.cpu.get_cpu_capability(), 7)
# From this width on, and up to NARROW, contiguous maps are the faster ones.
CONTIGUOUS = 13
# oneDNN's bf16 code for wide kernels (torch 2.14) never returns on wide maps of so few channels.
ONE_BLOCK = 16
# Elements of a map that are rearranged at a time, so that they stay in the cache.
CHUNK = 1 << 19


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y[n, c] = weight[c] * x[n, c] + bias[c], stride 1, zero padding of half the kernel.

    Args:
        x: (N, C, H, W).
        weight: (C, 1, k_h, k_w), both sides odd; what reaches beyond 2H - 1 or 2W - 1 meets only
            zeros and is left out.
        bias: (C,), if any.

    Returns:
        (N, C, H, W), with channels last where x has them or they are faster.
    """
    if use_reference() or x.device.type not in ("cpu", "cuda"):
        return same_conv(x, weight, bias)
    if not torch.compiler.is_compiling():
        weight = reachable(weight, x.shape[-2], x.shape[-1])
    if x.dtype != torch.float64 and torch.is_autocast_enabled(x.device.type):
        # a library operator has to do what autocast does to one
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    trained = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if (trained and not x.is_cuda) or on_triton(x, weight):
        out: Tensor = _depthwise(x, weight, bias)
        return out
    return fast_conv(x, weight, bias)


def reachable(weight: Tensor, height: int, width: int) -> Tensor:
    """The centre of a kernel that can meet pixels of a map: at most 2H - 1 by 2W - 1."""
    k_h, k_w = weight.shape[-2:]
    cut_h, cut_w = max(0, k_h // 2 - height + 1), max(0, k_w // 2 - width + 1)
    if not cut_h and not cut_w:
        return weight
    return weight[..., cut_h : k_h - cut_h, cut_w : k_w - cut_w]


def same_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution as the library has it: the specification of all others."""
    padding = (weight.shape[-2] // 2, weight.shape[-1] // 2)
    return F.conv2d(x, weight, bias, padding=padding, groups=weight.shape[0])


def fast_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The same in the memory format in which the device is fast."""
    width = weight.shape[-1]
    if x.device.type != "cpu" or width < min(CONTIGUOUS, NARROW + 1):
        return same_conv(x, weight, bias)
    if width > NARROW:
        x = x.contiguous(memory_format=torch.channels_last)
        if x.dtype == torch.bfloat16 and x.shape[1] <= ONE_BLOCK:
            with torch.autocast("cpu", enabled=False):
                bias = None if bias is None else bias.float()
                return same_conv(x.float(), weight.float(), bias).to(x.dtype)
        return same_conv(x, weight, bias)
    out = same_conv(x.contiguous(), weight, bias)
    return out if x.is_contiguous() else out.contiguous(memory_format=torch.channels_last)


def on_triton(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernels of `ops/triton` compute this: large ones, in 16 bits, on a GPU."""
    if not x.is_cuda or weight[0].numel() <= LARGE or not x.numel():
        return False
    return x.dtype in (torch.bfloat16, torch.float16) and triton_available()


@torch.library.custom_op("convnext::depthwise_conv2d", mutates_args=())
def _depthwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if on_triton(x, weight):
        from convnext.ops.triton.depthwise import conv

        return conv(x, weight, bias)
    return fast_conv(x, weight, bias)


@_depthwise.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    width, on_cpu = weight.shape[-1], x.device.type == "cpu"
    if (on_cpu and width > NARROW) or on_triton(x, weight):
        return torch.empty_like(x, memory_format=torch.channels_last)
    if on_cpu and width >= CONTIGUOUS:
        last = torch.contiguous_format if x.is_contiguous() else torch.channels_last
        return torch.empty_like(x, memory_format=last)
    return same_conv(x, weight, bias)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    x, weight = ctx.saved_tensors
    need_x, need_weight, need_bias = ctx.needs_input_grad
    grad_x = _depthwise(grad, weight.flip(2, 3), None) if need_x else None
    grad_weight = weight_grad(grad, x, weight).to(weight.dtype) if need_weight else None
    grad_bias = grad.sum((0, 2, 3)) if need_bias else None
    return grad_x, grad_weight, grad_bias


def weight_grad(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Gradient of the weight, in fp32 at least.

    dw[c, i, j] = Σ over n, h, w of grad[n, c, h, w] · x[n, c, h + i - p, w + j - p]: every map of
    every image is a channel, and its gradient the kernel that passes over it.

    Args:
        grad: (N, C, H, W), gradient of the output.
        x: (N, C, H, W), the input.
        weight: (C, 1, k_h, k_w).
    """
    if on_triton(x, weight):
        from convnext.ops.triton.depthwise import weight_grad as on_gpu

        return on_gpu(grad, x, weight.shape[-2], weight.shape[-1])
    dtype = torch.promote_types(x.dtype, torch.float32)
    n, c, height, width = x.shape
    k_h, k_w = weight.shape[-2:]
    total = grad.new_zeros(c, 1, k_h, k_w, dtype=dtype)
    some = max(1, CHUNK // (c * height * width))
    with torch.autocast(x.device.type, enabled=False):
        for start in range(0, n, some):
            maps, kernels = (_as_channels(t[start : start + some], dtype, k_w) for t in (x, grad))
            found = F.conv2d(
                maps, kernels.transpose(0, 1), padding=(k_h // 2, k_w // 2), groups=maps.shape[1]
            )
            total += found.reshape(-1, c, 1, k_h, k_w).sum(0)
    return total


def _as_channels(maps: Tensor, dtype: torch.dtype, kernel_width: int) -> Tensor:
    """(N, C, H, W) as (1, N·C, H, W) in the memory format that is fast for the correlation."""
    n, c, height, width = maps.shape
    if kernel_width <= NARROW:
        maps = maps.to(dtype, memory_format=torch.contiguous_format).contiguous()
        return maps.view(1, n * c, height, width)
    last = maps.permute(2, 3, 0, 1).to(dtype).reshape(1, height, width, n * c)
    return last.contiguous().permute(0, 3, 1, 2)  # of one image the reshape is a mere view


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], inputs[1])


_depthwise.register_autograd(_backward, setup_context=_setup)
