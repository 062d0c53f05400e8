"""Whether all values of a network that are kept in fp16 fit into it: proved from its weights.

LayerNorm gives vectors of length at most √C whatever the image was. From there on norms of the
matrices bound what each layer can add to a map. A network whose bounds stay below fp16's largest
number can overflow on no image.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor

from convnext.ops.cpu.plan import Plan

__all__ = ["HalfRange"]

LIMIT = 60_000.0  # fp16 ends at 65,504; the rest is for the rounding of sums and matrices
ROUNDING = 1 + 2**-10  # of a value when it is stored
GELU_ERROR = 1e-3  # of the kernels for AMX, at most


class HalfRange:
    """Follows the weights of a network on their way.

    Args:
        plan: The network.

    Attributes:
        fits: Whether nothing has been found so far that may be too large.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.fits = plan.stem_norm  # else the first map is as large as the image makes it

    @torch.no_grad()
    def follow(self, weights: Iterable[Tensor]) -> Iterator[Tensor]:
        """The weights themselves; `fits` is known when all have been taken.

        Args:
            weights: Of the plan's slots, one after the other.
        """
        plan, left, flags = self._plan, iter(weights), iter(self._plan.flags)
        part = list(islice(left, 4 if plan.stem_norm else 2))
        values = torch.full((plan.dims[0],), math.inf, dtype=torch.float64)
        if plan.stem_norm:
            values = self._checked(_after_norm(*part[2:]))
        yield from part
        for i, depth in enumerate(plan.depths):
            if i:
                part = list(islice(left, 2))
                values = self._checked(_downsample(*part))
                yield from part
            for quantised in islice(flags, depth):
                part = list(islice(left, (13 if quantised else 6) + plan.grn))
                if self.fits:  # else nothing is left to be found
                    values = self._block(part, values, quantised)
                yield from part

    def _checked(self, values: Tensor) -> Tensor:
        self.fits &= bool((values <= LIMIT).all())  # NaN is not
        return values * ROUNDING

    def _block(self, part: Sequence[Tensor], values: Tensor, quantised: bool) -> Tensor:
        taps, bias, *rest = (weight.double() if weight.ndim == 1 else weight for weight in part)
        error = torch.linalg.vector_norm(taps - taps.half())
        self.fits &= bool(error <= 2**-8 * torch.linalg.vector_norm(taps))  # fp16 has them
        self._checked(taps.double().abs().sum(0) * values + bias.abs())
        more = _from_integers(*rest[-6:]) if quantised else _from_hidden(*rest)
        return self._checked(values + more)


def _after_norm(weight: Tensor, bias: Tensor) -> Tensor:
    return weight.double().abs() * math.sqrt(len(weight)) + bias.double().abs()


def _downsample(weight: Tensor, bias: Tensor) -> Tensor:
    """Of four positions, each a vector from LayerNorm: |w·x| <= |w| |x|."""
    return _rows(weight) * math.sqrt(weight[0].numel()) + bias.double().abs()


def _from_hidden(first: Tensor, first_bias: Tensor, *rest: Tensor) -> Tensor:
    """What a block adds at most to each channel: |w·GELU(h)| <= |w| |h|.

    GRN multiplies the hidden channels by 1 + γ·r, where the r of all of them sum up to their number
    at most; of their products with the weights the largest counts then.
    """
    *gamma, second, bias = rest
    first, second = first.flatten(1), second.flatten(1)
    hidden, channels = first.shape
    square = first.t() @ first
    if not square.isfinite().all():
        return torch.full_like(bias, math.inf)
    stretch = torch.linalg.eigvalsh(square)[-1].clamp(min=0).sqrt()
    stretch = stretch + 2**-8 * torch.linalg.vector_norm(first)  # rounded to bf16
    length = stretch.double() * math.sqrt(channels) + torch.linalg.vector_norm(first_bias)
    length = length + GELU_ERROR * math.sqrt(hidden)
    more: Tensor = _rows(second) * length + bias.abs()
    for factor in gamma:
        each = _rows(first) * math.sqrt(channels) + first_bias.abs()
        more = more + hidden * (second.abs() * (each * factor.abs())).amax(1)
    return more


def _from_integers(
    _inverse: Tensor, zero: Tensor, second: Tensor, _start: Tensor, unit: Tensor, bias: Tensor
) -> Tensor:
    """The same of a quantised block, whose hidden values have a range of their own."""
    largest = torch.maximum(zero, 255 - zero)
    more: Tensor = unit * second.flatten(1).double().abs().sum(1) * largest + bias.abs()
    return more


def _rows(matrix: Tensor) -> Tensor:
    """The length of each row."""
    lengths: Tensor = torch.linalg.vector_norm(matrix.flatten(1), dim=1)
    return lengths.double()
