"""What a network is made of, as numbers, and the weights that follow from it, in order."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from convnext.ops.cpu.kernel_sets import KernelSet, Layout

__all__ = ["MAX_STAGES", "Plan", "Slot"]

MAX_STAGES = 8  # that the native code takes


@dataclass(frozen=True)
class Slot:
    """One weight.

    Attributes:
        kind: A matrix (n, parts, k) of a product, a vector (n,), or taps (49, n) of a depthwise
            convolution, one row for each place of the kernel.
        n: Output channels.
        k: Input channels of a matrix.
        parts: Blocks of k input channels that a matrix has: the places of a 2x2 convolution.
        source: What a block of inputs, or a vector, goes along with and is padded like: "image",
            dense values; "map", channels of a map; "matrix", outputs of a matrix.
        number: What it consists of: floating-point numbers, in vectors and taps always fp32, or
            integers of 8 (matrices) or 32 bits (vectors).
    """

    kind: Literal["matrix", "vector", "taps"]
    n: int
    k: int = 1
    parts: int = 1
    source: Literal["image", "map", "matrix"] = "map"
    number: Literal["float", "int8", "int32"] = "float"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight without padding."""
        shapes = {"matrix": (self.n, self.parts, self.k), "vector": (self.n,), "taps": (49, self.n)}
        return shapes[self.kind]

    def padded(self, kernels: KernelSet) -> tuple[int, ...]:
        """Of the weight with its zeros."""
        if self.kind == "taps":
            return (49, _up(self.n, kernels.unit))
        unit = {"image": 1, "map": kernels.unit, "matrix": kernels.panel}[self.source]
        if self.kind == "vector":
            return (_up(self.n, unit),)
        return (_up(self.n, kernels.panel), self.parts, _up(self.k, unit))

    def dtype(self, kernels: KernelSet) -> torch.dtype:
        """Of the packed form."""
        if self.number == "int32":
            return torch.int32
        if self.number == "int8":
            return self.layout(kernels).integer
        return kernels.dtype if self.kind == "matrix" else torch.float32

    def layout(self, kernels: KernelSet) -> Layout:
        """Of a matrix.

        Raises:
            ValueError: It is of 8-bit integers, which these kernels do not multiply.
        """
        if self.number == "float":
            return kernels
        if kernels.int8 is None:
            raise ValueError(f"the kernels {kernels.name} have no products of 8-bit integers")
        return kernels.int8

    def size(self, kernels: KernelSet) -> int:
        """Elements of the packed form."""
        if self.kind == "matrix":
            n, parts, k = self.padded(kernels)
            return n * _up(parts * k, self.layout(kernels).k_unit)
        return math.prod(self.padded(kernels))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The numbers that describe a network to the native code.

    Attributes:
        in_chans: Channels of the images.
        stem_kernel: Side of the stem's kernel.
        stem_stride: Its stride.
        stem_padding: Its padding.
        stem_norm: Whether a LayerNorm follows the stem.
        grn: Whether the blocks have global response normalisation.
        depths: Blocks of each stage.
        dims: Channels of each stage.
        quantised: For each block, through all stages, whether its two products are of 8-bit
            integers; empty: none is.
    """

    in_chans: int
    stem_kernel: int
    stem_stride: int
    stem_padding: int
    stem_norm: bool
    grn: bool
    depths: tuple[int, ...]
    dims: tuple[int, ...]
    quantised: tuple[bool, ...] = ()

    @classmethod
    def from_ints(cls, numbers: Sequence[int]) -> "Plan":
        """Undo `to_ints`.

        Raises:
            ValueError: The numbers describe no network.
        """
        wrong = ValueError(f"{list(numbers)} describes no network, see Plan.to_ints")
        if len(numbers) < 7:
            raise wrong
        chans, kernel, stride, padding, norm, grn, stages, *rest = numbers
        if not 1 <= stages <= MAX_STAGES or len(rest) < 2 * stages:
            raise wrong
        depths, dims, quantised = rest[:stages], rest[stages : 2 * stages], rest[2 * stages :]
        if min(chans, kernel, stride, *dims) < 1 or min(padding, *depths) < 0:
            raise wrong
        if len(quantised) not in (0, sum(depths)):
            raise wrong
        return cls(
            in_chans=chans,
            stem_kernel=kernel,
            stem_stride=stride,
            stem_padding=padding,
            stem_norm=bool(norm),
            grn=bool(grn),
            depths=tuple(depths),
            dims=tuple(dims),
            quantised=tuple(map(bool, quantised)),
        )

    def to_ints(self) -> list[int]:
        """As plain numbers: an argument that operators may have."""
        stem = [self.in_chans, self.stem_kernel, self.stem_stride, self.stem_padding]
        kinds = [int(self.stem_norm), int(self.grn), len(self.dims)]
        return [*stem, *kinds, *self.depths, *self.dims, *map(int, self.quantised)]

    def sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """Height and width of each stage's map; remainders of the strides are dropped."""
        h, w = (
            (side + 2 * self.stem_padding - self.stem_kernel) // self.stem_stride + 1
            for side in (height, width)
        )
        return [(h // 2**i, w // 2**i) for i in range(len(self.dims))]

    def slots(self) -> Iterator[Slot]:
        """The weights in the order in which the native code takes them."""
        first = self.dims[0]
        yield Slot("matrix", first, self.in_chans * self.stem_kernel**2, source="image")
        yield Slot("vector", first, source="matrix")
        if self.stem_norm:
            yield Slot("vector", first, source="matrix")
            yield Slot("vector", first, source="matrix")
        flags = iter(self.flags)
        for i, (depth, dim) in enumerate(zip(self.depths, self.dims, strict=True)):
            if i:
                yield Slot("matrix", dim, self.dims[i - 1], parts=4)
                yield Slot("vector", dim, source="matrix")
            for _ in range(depth):
                yield from self._block(dim, next(flags))

    @property
    def flags(self) -> tuple[bool, ...]:
        """For each block whether it is quantised."""
        return self.quantised or (False,) * sum(self.depths)

    def _block(self, dim: int, quantised: bool) -> Iterator[Slot]:
        yield Slot("taps", dim)
        yield Slot("vector", dim)
        if quantised:
            yield Slot("vector", dim)  # factors of the normalised channels
        yield from _product(4 * dim, dim, "map", quantised)
        if self.grn:
            yield Slot("vector", 4 * dim, source="matrix")
        if quantised:
            yield Slot("vector", 4 * dim, source="matrix")  # hidden values: 1 / scale of each
            yield Slot("vector", 1, source="image")  # their zero point
        yield from _product(dim, 4 * dim, "matrix", quantised)


def _product(n: int, k: int, source: Literal["map", "matrix"], quantised: bool) -> Iterator[Slot]:
    """Matrix and bias; quantised, also where its integer sums start, and their unit."""
    if quantised:
        yield Slot("matrix", n, k, source=source, number="int8")
        yield Slot("vector", n, source="matrix", number="int32")
        yield Slot("vector", n, source="matrix")
    else:
        yield Slot("matrix", n, k, source=source)
    yield Slot("vector", n, source="matrix")


def _up(length: int, unit: int) -> int:
    """The next multiple of a unit."""
    return -(-length // unit) * unit
