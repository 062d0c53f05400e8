"""Large depthwise convolutions on GPUs, channels last, sums in fp32.

Both kernels keep a block of channels in the fast dimension, so that every load is one row of
neighbouring addresses. They are checked with Triton's interpreter and compile for sm_90; they have
not run on hardware yet. Arguments of kernels have no annotations: Triton would read them.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["conv", "weight_grad"]

BLOCK_C = 64
BLOCK_W = 16  # output columns of a program
ROWS = 4  # output rows of a program: an input row that is loaded serves all of them
TAPS = 8  # kernel columns of a program of the weight gradient
SPLITS = 8  # parts of the batch that are summed side by side


@triton.jit  # type: ignore[untyped-decorator]
def _conv(  # type: ignore[no-untyped-def]
    x_ptr,
    w_ptr,
    b_ptr,
    y_ptr,
    height,
    width,
    channels,
    k_h,
    k_w,
    has_bias: tl.constexpr,
    rows: tl.constexpr,
    block_w: tl.constexpr,
    block_c: tl.constexpr,
):
    """`rows` x `block_w` outputs of a block of channels.

    x, y: (N, H, W, C); w: (k_h, k_w, C); grid: (N · row blocks, column blocks, channel blocks).
    """
    row_blocks = tl.cdiv(height, rows)
    image = tl.program_id(0) // row_blocks
    top = (tl.program_id(0) % row_blocks) * rows
    columns = tl.program_id(1) * block_w + tl.arange(0, block_w)
    c = tl.program_id(2) * block_c + tl.arange(0, block_c)
    real = c < channels
    x_ptr += image.to(tl.int64) * height * width * channels
    y_ptr += image.to(tl.int64) * height * width * channels
    lines = tl.arange(0, rows)
    total = tl.zeros((rows, block_w, block_c), dtype=tl.float32)
    if has_bias:
        total += tl.load(b_ptr + c, mask=real, other=0.0).to(tl.float32)[None, None, :]
    first = tl.maximum(top - k_h // 2, 0)
    last = tl.minimum(top + rows - 1 + k_h // 2, height - 1)
    for source in range(first, last + 1):
        taps = source - (top + lines) + k_h // 2  # kernel row by which each output row sees it
        seen = (taps >= 0) & (taps < k_h)
        for j in range(k_w):
            at = columns + j - k_w // 2
            inside = (at >= 0) & (at < width)
            values = tl.load(
                x_ptr + (source * width + at)[:, None] * channels + c[None, :],
                mask=inside[:, None] & real[None, :],
                other=0.0,
            ).to(tl.float32)
            weights = tl.load(
                w_ptr + (taps * k_w + j)[:, None] * channels + c[None, :],
                mask=seen[:, None] & real[None, :],
                other=0.0,
            ).to(tl.float32)
            total += values[None, :, :] * weights[:, None, :]
    out_rows = top + lines
    places = (out_rows[:, None] * width + columns[None, :])[:, :, None] * channels
    stored = (out_rows < height)[:, None, None] & (columns < width)[None, :, None]
    tl.store(
        y_ptr + places + c[None, None, :],
        total.to(y_ptr.dtype.element_ty),
        mask=stored & real[None, None, :],
    )


@triton.jit  # type: ignore[untyped-decorator]
def _weight_grad(  # type: ignore[no-untyped-def]
    g_ptr,
    x_ptr,
    out_ptr,
    images,
    height,
    width,
    channels,
    k_h,
    k_w,
    share,
    taps: tl.constexpr,
    block_c: tl.constexpr,
):
    """`taps` kernel columns of one kernel row and a block of channels, over a share of the images.

    g, x: (N, H, W, C); out: (splits, k_h, k_w, C) fp32; grid: (k_h · column blocks, channel
    blocks, splits).
    """
    column_blocks = tl.cdiv(k_w, taps)
    i = tl.program_id(0) // column_blocks
    j = (tl.program_id(0) % column_blocks) * taps + tl.arange(0, taps)
    c = tl.program_id(1) * block_c + tl.arange(0, block_c)
    real = c < channels
    part = tl.program_id(2)
    total = tl.zeros((taps, block_c), dtype=tl.float32)
    shift = i - k_h // 2
    first, last = tl.maximum(-shift, 0), tl.minimum(height - shift, height)
    for image in range(part * share, tl.minimum((part + 1) * share, images)):
        start = tl.cast(image, tl.int64) * height * width
        for row in range(first, last):
            for column in range(width):
                grad = tl.load(
                    g_ptr + (start + row * width + column) * channels + c, mask=real, other=0.0
                ).to(tl.float32)
                at = column + j - k_w // 2
                inside = (at >= 0) & (at < width)
                values = tl.load(
                    x_ptr + (start + (row + shift) * width + at)[:, None] * channels + c[None, :],
                    mask=inside[:, None] & real[None, :],
                    other=0.0,
                ).to(tl.float32)
                total += grad[None, :] * values
    places = ((part * k_h + i) * k_w + j)[:, None] * channels + c[None, :]
    tl.store(out_ptr + places, total, mask=(j < k_w)[:, None] & real[None, :])


def conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As `convnext.ops.depthwise.depthwise_conv2d`.

    Args:
        x: (N, C, H, W), best with channels last.
        weight: (C, 1, k_h, k_w), both sides odd.
        bias: (C,), if any.

    Returns:
        (N, C, H, W) with channels last.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    taps = weight[:, 0].permute(1, 2, 0).contiguous()  # k_h, k_w, C
    y = torch.empty_like(x, memory_format=torch.channels_last)
    n, c, height, width = x.shape
    grid = (n * triton.cdiv(height, ROWS), triton.cdiv(width, BLOCK_W), triton.cdiv(c, BLOCK_C))
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        _conv[grid](
            x,
            taps,
            taps if bias is None else bias,
            y,
            height,
            width,
            c,
            taps.shape[0],
            taps.shape[1],
            has_bias=bias is not None,
            rows=ROWS,
            block_w=BLOCK_W,
            block_c=BLOCK_C,
        )
    return y


def weight_grad(grad: Tensor, x: Tensor, k_h: int, k_w: int) -> Tensor:
    """Gradient of the weight in fp32; the order of sums is fixed, so it is reproducible.

    Args:
        grad: (N, C, H, W), gradient of the output.
        x: (N, C, H, W), the input.
        k_h: Kernel height.
        k_w: Kernel width.

    Returns:
        (C, 1, k_h, k_w).
    """
    grad, x = (t.contiguous(memory_format=torch.channels_last) for t in (grad, x))
    n, c, height, width = x.shape
    splits = min(n, SPLITS)
    parts = torch.empty(splits, k_h, k_w, c, dtype=torch.float32, device=x.device)
    grid = (k_h * triton.cdiv(k_w, TAPS), triton.cdiv(c, BLOCK_C), splits)
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        _weight_grad[grid](
            grad,
            x,
            parts,
            n,
            height,
            width,
            c,
            k_h,
            k_w,
            triton.cdiv(n, splits),
            taps=TAPS,
            block_c=BLOCK_C,
        )
    return parts.sum(0).permute(2, 0, 1)[:, None].contiguous()
