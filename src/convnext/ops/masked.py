"""Depthwise convolution that sees visible positions only, on rows of features without the rest.

A mask hides whole cells of an image. Features of the visible positions are rows of one matrix;
`Visible` says where they lie. A submanifold convolution (Graham et al., 2018) has outputs at
visible positions only, and takes hidden ones for zeros.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convnext.ops.depthwise import same_conv, weight_grad

__all__ = ["Visible", "masked_depthwise", "masked_depthwise_reference", "random_mask"]


def random_mask(
    num_images: int,
    grid: tuple[int, int],
    ratio: float,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Hide a share of the cells of every image, as many in each.

    Of L = rows · columns cells int(L · (1 - ratio)) stay visible: those of the smallest of L
    uniform numbers.

    Args:
        num_images: N.
        grid: Rows and columns of cells.
        ratio: Share to hide, in [0, 1).
        generator: Source of randomness, on the device; the global one by default.
        device: Of the result.

    Returns:
        (N, rows, columns) bool, True where hidden.

    Raises:
        ValueError: The ratio is outside [0, 1), or no cell would be visible.

    Source: ConvNeXt V2, section 3.1, masking; cells of 32 pixels, ratio 0.6.
    """
    cells = grid[0] * grid[1]
    if not 0.0 <= ratio < 1.0:
        raise ValueError(f"mask ratio {ratio} must be in [0, 1); the paper's is 0.6")
    kept = int(cells * (1 - ratio))
    if kept < 1:
        raise ValueError(
            f"mask ratio {ratio} leaves none of {grid[0]} x {grid[1]} cells visible; take larger "
            "images or a smaller ratio"
        )
    noise = torch.rand(num_images, cells, generator=generator, device=device)
    order = noise.argsort(dim=1)
    mask = torch.ones(num_images, cells, dtype=torch.bool, device=device)
    mask.scatter_(1, order[:, :kept], False)
    return mask.view(num_images, *grid)


@dataclass(frozen=True)
class Visible:
    """Where rows lie: the visible positions of N maps of one size, cell by cell.

    Attributes:
        num_maps: N.
        height: Of the maps, in positions; `width` likewise.
        index: (R,) int64, of each row its position in the flattened (N, H, W).
    """

    num_maps: int
    height: int
    width: int
    index: Tensor

    @classmethod
    def of(cls, mask: Tensor, side: int) -> "Visible":
        """The positions of a mask whose cells are `side` x `side` positions.

        Rows are ordered by image, cell (row by row) and position in the cell (row by row).

        Args:
            mask: (N, rows, columns) bool, True where hidden, with as many visible in each image.
            side: Positions along a cell.

        Raises:
            ValueError: Images have different numbers of visible cells, or none.
        """
        num, rows, columns = mask.shape
        visible = ~mask.flatten(1)
        counts = visible.sum(1)
        if not num or (counts != counts[0]).any() or not counts[0]:
            raise ValueError("every image needs the same number of visible cells, at least one")
        image, cell = visible.nonzero(as_tuple=True)
        top, left = (cell // columns) * side, (cell % columns) * side
        height, width = rows * side, columns * side
        steps = torch.arange(side, device=mask.device)
        y = top[:, None, None] + steps[:, None]
        x = left[:, None, None] + steps
        index = (image[:, None, None] * height + y) * width + x
        return cls(num, height, width, index.flatten())

    def gather(self, maps: Tensor) -> Tensor:
        """The rows (R, C) of maps (N, C, H, W)."""
        return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1]).index_select(0, self.index)

    def scatter(self, rows: Tensor) -> Tensor:
        """Maps (N, C, H, W), channels-last in memory, with zeros at hidden positions."""
        channels = rows.shape[1]
        flat = rows.new_zeros(self.num_maps * self.height * self.width, channels)
        flat.index_copy_(0, self.index, rows)
        return flat.view(self.num_maps, self.height, self.width, channels).permute(0, 3, 1, 2)


def masked_depthwise_reference(rows: Tensor, weight: Tensor, bias: Tensor, at: Visible) -> Tensor:
    """y_r = bias + Σ_δ weight_δ · x_{r+δ} over the visible neighbours r+δ.

    Args:
        rows: (R, C) features of the visible positions.
        weight: (C, 1, k, k), k odd.
        bias: (C,).
        at: Where the rows lie.
    """
    padding = weight.shape[-1] // 2
    return at.gather(F.conv2d(at.scatter(rows), weight, bias, padding=padding, groups=len(weight)))


def masked_depthwise(rows: Tensor, weight: Tensor, bias: Tensor, at: Visible) -> Tensor:
    """As `masked_depthwise_reference`, keeping nothing of the hidden positions for the backward."""
    if torch.is_autocast_enabled(rows.device.type):  # a library operator does as autocast does
        dtype = torch.get_autocast_dtype(rows.device.type)
        rows, weight, bias = rows.to(dtype), weight.to(dtype), bias.to(dtype)
    out: Tensor = _masked(rows, weight, bias, at.index, [at.num_maps, at.height, at.width])
    return out


@torch.library.custom_op("convnext::masked_depthwise", mutates_args=())
def _masked(
    rows: Tensor, weight: Tensor, bias: Tensor, index: Tensor, size: Sequence[int]
) -> Tensor:
    at = Visible(size[0], size[1], size[2], index)
    return at.gather(same_conv(at.scatter(rows), weight, bias))


@_masked.register_fake
def _(rows: Tensor, weight: Tensor, bias: Tensor, index: Tensor, size: Sequence[int]) -> Tensor:
    return torch.empty_like(rows)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    rows, weight, _, index, size = inputs
    ctx.save_for_backward(rows, weight, index)
    ctx.size = size


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    rows, weight, index = ctx.saved_tensors
    need_rows, need_weight, need_bias = ctx.needs_input_grad[:3]
    num_maps, height, width = ctx.size
    at = Visible(num_maps, height, width, index)
    spread = at.scatter(grad)
    grad_rows = at.gather(same_conv(spread, weight.flip(2, 3), None)) if need_rows else None
    grad_weight = None
    if need_weight:
        grad_weight = weight_grad(spread, at.scatter(rows), weight).to(weight.dtype)
    grad_bias = grad.sum(0) if need_bias else None
    return grad_rows, grad_weight, grad_bias, None, None


_masked.register_autograd(_backward, setup_context=_setup)
