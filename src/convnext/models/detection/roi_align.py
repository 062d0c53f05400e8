"""RoIAlign on a CPU as a sparse matrix: each bin is a weighted sum of a few cells.

Bilinear samples on a grid, averaged in bins, are separable: what a cell counts in a bin is a factor
of its row times one of its column. So the matrix is built once for all channels, and pooling and
its gradient are two products with it, which use all threads and vector units; torchvision's kernel
for CPUs works the weights out again for every channel, on one thread.
"""

import warnings
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function

__all__ = ["aligned_roi_align", "kernel_roi_align"]

MOST_WEIGHTS = 1 << 26  # of a dense form of the matrix, before zeros are left out
CHUNK = 1 << 19  # of these at a time


def aligned_roi_align(x: Tensor, rois: Tensor, size: int, scale: float) -> Tensor:
    """Averages of bilinear samples in size x size bins of boxes, half a pixel taken off.

    Args:
        x: (N, C, H, W), in fp32 or fp64.
        rois: (n, 5), number of the image and box in pixels; n may be 0. They get no gradient.
        size: bins along each side; each has as many samples as it needs.
        scale: of boxes to cells of x.

    Returns:
        (n, C, size, size).

    Source: He et al., Mask R-CNN, section 3.
    """
    traced = torch.compiler.is_compiling() or isinstance(x, torch._subclasses.FakeTensor)
    if x.device.type == "cpu" and torch._C.has_mkl and len(rois) and not traced:
        _quieten()
        matrix = _matrix(rois, x.shape, size, scale)
        if matrix is not None:
            return cast(Tensor, _Product.apply(x, matrix, size))
    return kernel_roi_align(x, rois, size, scale)


def kernel_roi_align(x: Tensor, rois: Tensor, size: int, scale: float) -> Tensor:
    """The same by torchvision's kernel.

    It is called by itself: where deterministic algorithms are asked for on CUDA, torchvision's
    function takes a version in Python that needs a hundred times the memory. So there the gradient
    of features, a sum in any order, is not the same to the last bit in each run.
    """
    import torchvision  # noqa: F401 - brings its operators; slow, and lists need none of them

    return cast(Tensor, torch.ops.torchvision.roi_align(x, rois, scale, size, size, 0, True))


class _Product(Function):
    """A matrix (n * size * size, N * H * W) times the cells of maps, and the gradient of these."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Tensor, size: int) -> Tensor:
        ctx.matrix, ctx.shape = matrix, x.shape
        cells = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
        with torch.autocast("cpu", enabled=False):
            bins = matrix @ cells
        return bins.view(-1, size, size, x.shape[1]).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        n, c, height, width = ctx.shape
        bins = grad.permute(0, 2, 3, 1).reshape(-1, c)
        with torch.autocast("cpu", enabled=False):
            cells = ctx.matrix.t() @ bins
        return cells.view(n, height, width, c).permute(0, 3, 1, 2), None, None


def _matrix(rois: Tensor, shape: torch.Size, size: int, scale: float) -> Tensor | None:
    """What each cell of the maps counts in each bin of the boxes, as a CSR matrix.

    None where boxes have so many cells to a bin that torchvision's kernel needs less memory.
    """
    n, _, height, width = shape
    low = rois[:, 1:3] * scale - 0.5
    side = (rois[:, 3:] - rois[:, 1:3]) * scale
    rows, row_weights = _taps(low[:, 1], side[:, 1], size, height)
    columns, column_weights = _taps(low[:, 0], side[:, 0], size, width)
    dense = size**2 * rows.shape[2] * columns.shape[2]  # weights of a box, zeros included
    if len(rois) * dense > MOST_WEIGHTS or n * height * width >= 1 << 31:
        return None
    first = rois[:, 0].int() * (height * width)
    counts, cells, weights = [], [], []
    for some in torch.split(torch.arange(len(rois)), max(1, CHUNK // dense)):
        # (boxes, bins down, bins across, cells down, cells across)
        weight = row_weights[some, :, None, :, None] * column_weights[some, None, :, None, :]
        cell = rows[some, :, None, :, None] * width + columns[some, None, :, None, :]
        cell = cell + first[some].view(-1, 1, 1, 1, 1)
        counted = weight != 0
        counts.append(counted.sum((3, 4), dtype=torch.int32).flatten())
        cells.append(cell[counted])
        weights.append(weight[counted])
    ends = torch.zeros(len(rois) * size**2 + 1, dtype=torch.int32)
    torch.cumsum(torch.cat(counts), 0, out=ends[1:])
    return torch.sparse_csr_tensor(
        ends,
        torch.cat(cells),
        torch.cat(weights),
        (len(rois) * size**2, n * height * width),
        check_invariants=False,
    )


def _taps(low: Tensor, side: Tensor, bins: int, limit: int) -> tuple[Tensor, Tensor]:
    """Cells along one axis that boxes are read from, and what each counts.

    Args:
        low: (n,) where the boxes begin, in cells.
        side: (n,) their length.
        bins: number of bins along it.
        limit: cells of the map along the axis.

    Returns:
        Numbers of cells, int32, and weights, both (n, bins, T): T neighbouring cells for each bin,
        those that do not count with weight 0.
    """
    samples = (side / bins).ceil()[:, None, None]  # of a bin
    number = torch.arange(max(1, int(samples.max())), dtype=low.dtype)
    bin_number = torch.arange(bins, dtype=low.dtype)[:, None]
    step = side[:, None, None] / bins
    place = low[:, None, None] + bin_number * step + (number + 0.5) * step / samples
    counts = (number < samples) & (place >= -1) & (place <= limit)
    share = torch.where(counts, 1 / samples, torch.zeros_like(place))
    place = torch.where(counts, place, torch.zeros_like(place)).clamp(0, limit - 1)
    cell = place.floor()
    beyond, cell = place - cell, cell.long()
    first = torch.where(counts, cell, limit).amin(-1, keepdim=True).clamp(max=limit - 1)
    offset = (cell - first).clamp(min=0)
    taps = int(offset.max()) + 2
    weights = low.new_zeros(len(low), bins, taps)
    weights.scatter_add_(2, offset, (1 - beyond) * share)
    weights.scatter_add_(2, offset + 1, beyond * share)
    return (first + torch.arange(taps)).int(), weights


@cache
def _quieten() -> None:
    """Swallow what torch says, once, about sparse matrices being new."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        torch.eye(1).to_sparse_csr()
