"""The weights of a network whose pointwise layers multiply 8-bit integers.

In a quantised block W ≈ unit · Q with Q in -127 ... 127 and a unit for each output channel. The
operand of the first product is quantised row by row as it is computed; that of the second with
scales and a zero point found beforehand: y ≈ (u - zero) · scale, u in 0 ... 255.

Channels much larger than the others would leave these few steps. So the first operand has a factor
for each channel, and the second a scale for each; the matrices take the opposite, W·y = (W/f)·(f·y)
(Xiao et al., "SmoothQuant", 2023).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from convnext.ops.cpu.plan import Plan

__all__ = ["BlockRanges", "quantised_block", "quantised_weights"]

ROW_ZERO = 128  # rows are symmetric and stored without sign


@dataclass(frozen=True, eq=False)
class BlockRanges:
    """How the operands of a block's products are quantised.

    Attributes:
        factors: (C,) of the channels of the first.
        scales: (4C,) of one step of the channels of the second.
        zero: The integer that stands for 0 in the second, 0 to 255.
    """

    factors: Tensor
    scales: Tensor
    zero: int


def quantised_weights(
    plan: Plan, weights: Iterable[Tensor], ranges: Sequence[BlockRanges | None]
) -> Iterator[Tensor]:
    """The weights of the slots of a plan with quantised blocks, one at a time.

    Args:
        plan: The network; its flags do not matter.
        weights: Of the slots of the same plan without quantised blocks.
        ranges: For each block; None: it stays as it is.
    """
    left, found = iter(weights), iter(ranges)
    yield from islice(left, 4 if plan.stem_norm else 2)
    for i, depth in enumerate(plan.depths):
        if i:
            yield from islice(left, 2)  # downsample
        for wanted in islice(found, depth):
            block = islice(left, 7 if plan.grn else 6)
            yield from block if wanted is None else quantised_block(list(block), wanted)


def quantised_block(weights: Sequence[Tensor], ranges: BlockRanges) -> Iterator[Tensor]:
    """A block's weights in the order of the slots: integers, start values, units, biases."""
    taps, taps_bias, expanding, expanding_bias, *gamma, reducing, reducing_bias = weights
    yield taps
    yield taps_bias
    yield ranges.factors
    integers, unit = _integers(expanding / ranges.factors)
    yield integers
    yield _start(integers, ROW_ZERO)
    yield unit
    yield expanding_bias
    yield from gamma
    yield 1 / ranges.scales
    yield torch.tensor([float(ranges.zero)])
    integers, unit = _integers(reducing * ranges.scales)
    yield integers
    yield _start(integers, ranges.zero)
    yield unit
    yield reducing_bias


def _integers(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix (N, 1, K) as integers in floating point, and the unit of each output."""
    unit = weight.abs().amax((1, 2)) / 127
    unit = torch.where(unit > 0, unit, torch.ones_like(unit))
    return (weight / unit[:, None, None]).round(), unit


def _start(integers: Tensor, zero: int) -> Tensor:
    """Where sums begin so that operands with this zero point give the sums without it."""
    return (-zero * integers.double().sum((1, 2))).to(torch.int32)
