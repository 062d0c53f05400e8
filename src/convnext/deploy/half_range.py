"""Whether all values of a network that are kept in fp16 lie in its range: proved from the weights.

LayerNorm gives vectors of length at most √C whatever the image was. From there on norms of the
matrices bound what each layer can add to a map. A network whose bounds stay below fp16's largest
number can overflow on no image.
"""

import math
from collections.abc import Generator, Iterable, Iterator
from itertools import islice

import torch
from torch import Tensor

from convnext.ops.cpu.plan import Plan

__all__ = ["HalfRange"]

# fp16 ends at 65,504. What is left covers the rounding of matrices, operands and hidden values to
# bf16 (2 %), of sums in fp16 (2.5 %), and of all that is computed here.
LIMIT = 60_000.0
ROUNDING = 1 + 2**-10  # of a value when it is stored
GELU_ERROR = 1e-3  # of the kernels for AMX, at most
SLICE = 2**19  # elements of a matrix that are multiplied together

Added = Generator[Tensor, None, Tensor]  # gives weights, and returns what a block adds at most


class HalfRange:
    """Follows the weights of a network on their way, one at a time.

    Args:
        plan: The network.

    Attributes:
        fits: Whether nothing has been found so far that may be too large.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._values = torch.empty(0)  # (C,), no value of a channel of the map is larger
        self.fits = True

    @torch.no_grad()
    def follow(self, weights: Iterable[Tensor]) -> Iterator[Tensor]:
        """The weights themselves; `fits` is known when all have been taken.

        Args:
            weights: Of the plan's slots, one after the other.
        """
        left, flags = iter(weights), iter(self._plan.flags)
        yield from self._stem(left)
        for i, depth in enumerate(self._plan.depths):
            if i:
                yield from self._downsample(left)
            for quantised in islice(flags, depth):
                yield from self._block(left, quantised)
        yield from left  # for whoever counts them

    def _checked(self, values: Tensor) -> Tensor:
        self.fits &= bool((values <= LIMIT).all())  # NaN is not
        return values * ROUNDING

    def _stem(self, left: Iterator[Tensor]) -> Iterator[Tensor]:
        yield from islice(left, 2)
        channels = self._plan.dims[0]
        if not self._plan.stem_norm:  # the first map is as large as the image makes it
            self._values = self._checked(torch.full((channels,), math.inf, dtype=torch.float64))
            return
        yield (weight := next(left))
        yield (bias := next(left))
        largest = weight.double().abs() * math.sqrt(channels) + bias.double().abs()
        self._values = self._checked(largest)

    def _downsample(self, left: Iterator[Tensor]) -> Iterator[Tensor]:
        """Of four positions, each a vector from LayerNorm: |w·x| <= |w| |x|."""
        weight = next(left)
        largest = _lengths(weight) * math.sqrt(weight[0].numel())
        yield weight
        yield (bias := next(left))
        self._values = self._checked(largest + bias.double().abs())

    def _block(self, left: Iterator[Tensor], quantised: bool) -> Iterator[Tensor]:
        taps = next(left)
        error = torch.linalg.vector_norm(taps - taps.half())
        self.fits &= bool(error <= 2**-8 * torch.linalg.vector_norm(taps))  # fp16 has them
        yield taps
        yield (bias := next(left))
        self._checked(taps.double().abs().sum(0) * self._values + bias.double().abs())
        added = yield from (self._integers if quantised else self._products)(left)
        self._values = self._checked(self._values + added)

    def _products(self, left: Iterator[Tensor]) -> Added:
        """Of a block: |w·GELU(h)| <= |w| |h|.

        GRN multiplies the hidden channels by 1 + γ·r, where the r of all of them sum up to their
        number at most; of their products with the weights the largest counts then.
        """
        weight = next(left)
        hidden, channels = len(weight), weight.shape[-1]
        length, each = _stretch(weight) * math.sqrt(channels), _lengths(weight)
        yield weight
        del weight
        yield (bias := next(left))
        length = length + float(torch.linalg.vector_norm(bias)) + GELU_ERROR * math.sqrt(hidden)
        each = each * math.sqrt(channels) + bias.double().abs() + GELU_ERROR
        if self._plan.grn:
            yield (gamma := next(left))
            each = each * gamma.double().abs()
        weight = next(left)
        added = _lengths(weight) * length
        if self._plan.grn:
            added = added + hidden * _largest_products(weight, each)
        yield weight
        del weight
        yield (bias := next(left))
        return added + bias.double().abs()

    def _integers(self, left: Iterator[Tensor]) -> Added:
        """Of a quantised block, whose hidden values have a range of their own."""
        yield from islice(left, 6 if self._plan.grn else 5)  # factors, the first product, gamma
        yield next(left)  # 1 / scales
        yield (zero := next(left))
        weight = next(left)
        sums: Tensor = torch.linalg.vector_norm(weight.flatten(1), 1, dim=1, dtype=torch.float64)
        yield weight
        del weight
        yield next(left)  # start values
        yield (unit := next(left))
        yield (bias := next(left))
        largest = max(float(zero), 255 - float(zero))
        return sums * largest * unit.double() + bias.double().abs()


def _lengths(weight: Tensor) -> Tensor:
    """Of the rows of a matrix."""
    lengths: Tensor = torch.linalg.vector_norm(weight.flatten(1), dim=1)
    return lengths.double()


def _largest_products(weight: Tensor, factors: Tensor) -> Tensor:
    """Of each row of a matrix with factors of its columns; some rows at a time."""
    rows, factors = weight.flatten(1), factors.float()
    parts = torch.split(rows, max(1, SLICE // rows.shape[1]))
    return torch.cat([(part * factors).abs().amax(1) for part in parts]).double()


def _stretch(weight: Tensor) -> float:
    """By how much a matrix, rounded to bf16, makes a vector longer: at most so much.

    The largest eigenvalue of S = WᵀW is at most the Frobenius norm of S⁴ to the power of 1/4, and
    that at most C^(1/8) times as large.
    """
    with torch.autocast("cpu", enabled=False):
        weight = weight.flatten(1)
        square = weight.t() @ weight
        size = torch.linalg.vector_norm(square)
        unit = square / size  # no power of it leaves the range of fp32
        unit = unit @ unit
        largest = size * torch.linalg.vector_norm(unit @ unit) ** 0.25
        rounding = 2**-8 * torch.linalg.vector_norm(weight)
        return float(largest.sqrt() + rounding) if size else 0.0
