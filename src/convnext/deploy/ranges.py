"""How the operands of each block are quantised best, from the values that images give.

Half of what makes channels differ goes over to the matrix (`quantised.BlockRanges`), or nothing:
whichever changes the output of the block less.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from convnext.deploy.blockwise import Blockwise
from convnext.deploy.histogram import Histogram
from convnext.deploy.quantised import BlockRanges

__all__ = ["Watch", "find_ranges"]

SHARES = (0.0, 0.5)  # of the differences between channels that go over to the matrix
MOST = 64.0  # that a channel is scaled, up or down

See = Callable[[int, Tensor, Tensor], None]
Watch = Callable[[Sequence[Any], str], Iterable[Any]]  # gives the items, and may show progress


def find_ranges(parts: Blockwise, images: Sequence[Tensor], watch: Watch) -> list[BlockRanges]:
    """The better ranges of each block.

    Args:
        parts: The network.
        images: Batches; the first decides between the candidates.
        watch: Called with the batches, and what is sought in them.

    Raises:
        ValueError: They give values that are not finite.
    """
    peaks = _peaks(parts, watch(images, "largest values"))
    wanted = [_smoothing(block, *peaks[i]) for i, block in enumerate(parts.blocks)]
    seen = [[Histogram() for _ in SHARES] for _ in wanted]

    def count(i: int, _: Tensor, hidden: Tensor) -> None:
        for histogram, (_, divisors) in zip(seen[i], wanted[i], strict=True):
            histogram.add(hidden / divisors)

    _look(parts, watch(images, "ranges of values"), count)
    candidates = []
    for histograms, smoothings in zip(seen, wanted, strict=True):
        found = [histogram.best_range() for histogram in histograms]
        candidates.append(
            [
                BlockRanges(1 / rows, scale * hidden, zero)
                for (scale, zero), (rows, hidden) in zip(found, smoothings, strict=True)
            ]
        )
    return _better(parts, candidates, images[0], watch)


def _look(parts: Blockwise, images: Iterable[Tensor], see: See) -> None:
    """Show the operands of every block for all images."""
    for batch in images:
        x = parts.enter(batch)
        for i in range(len(parts.blocks)):
            x = parts.step(i, x, False, partial(see, i))


def _peaks(parts: Blockwise, images: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """The largest magnitude of each channel of both operands, for each block."""
    peaks: dict[int, tuple[Tensor, Tensor]] = {}

    def see(i: int, rows: Tensor, hidden: Tensor) -> None:
        new = _peak(rows), _peak(hidden)
        old = peaks.get(i, new)
        peaks[i] = torch.maximum(old[0], new[0]), torch.maximum(old[1], new[1])

    _look(parts, images, see)
    return [peaks[i] for i in range(len(parts.blocks))]


def _peak(operand: Tensor) -> Tensor:
    return operand.abs().flatten(0, -2).amax(0)


def _smoothing(
    weights: Sequence[Tensor], rows: Tensor, hidden: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """For each share, by what the channels of both operands are divided."""
    expanding, reducing = weights[2], weights[-2]
    return [
        (_divisors(rows, expanding, share), _divisors(hidden, reducing, share)) for share in SHARES
    ]


def _divisors(peaks: Tensor, matrix: Tensor, share: float) -> Tensor:
    """So that operand and columns of the matrix reach equally far, in the share of one half."""
    reach = matrix.abs().amax((0, 1))
    ratio = torch.where((peaks > 0) & (reach > 0), peaks / reach, torch.ones_like(peaks))
    logs = share * ratio.log()
    return (logs - logs.mean()).exp().clamp(1 / MOST, MOST)


def _better(
    parts: Blockwise, candidates: Sequence[Sequence[BlockRanges]], images: Tensor, watch: Watch
) -> list[BlockRanges]:
    """Of each block's candidates the one that changes its output least."""
    chosen = []
    parts.ranges = [few[0] for few in candidates]
    x = parts.enter(images)
    for i in watch(range(len(candidates)), "better ranges of each block"):
        few = candidates[i]
        exact = parts.step(i, x, False)
        errors = []
        for ranges in few:
            parts.ranges[i] = ranges
            errors.append(float((parts.step(i, x, True) - exact).square().sum()))
        chosen.append(few[errors.index(min(errors))])
        x = exact
    return chosen
