"""What a network is made of, as numbers, and the weights that follow from it, in order."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from convnext.ops.cpu.kernel_sets import KernelSet

__all__ = ["Plan", "Slot"]


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
    """

    kind: Literal["matrix", "vector", "taps"]
    n: int
    k: int = 1
    parts: int = 1
    source: Literal["image", "map", "matrix"] = "map"

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
        return kernels.dtype if self.kind == "matrix" else torch.float32

    def size(self, kernels: KernelSet) -> int:
        """Elements of the packed form."""
        if self.kind == "matrix":
            n, parts, k = self.padded(kernels)
            return n * _up(parts * k, kernels.k_unit)
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
    """

    in_chans: int
    stem_kernel: int
    stem_stride: int
    stem_padding: int
    stem_norm: bool
    grn: bool
    depths: tuple[int, ...]
    dims: tuple[int, ...]

    @classmethod
    def from_ints(cls, numbers: Sequence[int]) -> "Plan":
        """Undo `to_ints`."""
        chans, kernel, stride, padding, norm, grn, *rest = numbers
        depths, dims = rest[: len(rest) // 2], rest[len(rest) // 2 :]
        return cls(
            in_chans=chans,
            stem_kernel=kernel,
            stem_stride=stride,
            stem_padding=padding,
            stem_norm=bool(norm),
            grn=bool(grn),
            depths=tuple(depths),
            dims=tuple(dims),
        )

    def to_ints(self) -> list[int]:
        """As plain numbers: an argument that operators may have."""
        stem = [self.in_chans, self.stem_kernel, self.stem_stride, self.stem_padding]
        return [*stem, int(self.stem_norm), int(self.grn), *self.depths, *self.dims]

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
        for i, (depth, dim) in enumerate(zip(self.depths, self.dims, strict=True)):
            if i:
                yield Slot("matrix", dim, self.dims[i - 1], parts=4)
                yield Slot("vector", dim, source="matrix")
            for _ in range(depth):
                yield from self._block(dim)

    def _block(self, dim: int) -> Iterator[Slot]:
        yield Slot("taps", dim)
        yield Slot("vector", dim)
        yield Slot("matrix", 4 * dim, dim)
        yield Slot("vector", 4 * dim, source="matrix")
        if self.grn:
            yield Slot("vector", 4 * dim, source="matrix")
        yield Slot("matrix", dim, 4 * dim, source="matrix")
        yield Slot("vector", dim, source="matrix")


def _up(length: int, unit: int) -> int:
    """The next multiple of a unit."""
    return -(-length // unit) * unit
