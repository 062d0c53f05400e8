"""The sets of kernels, and the form in which each wants the matrices.

A product Y = X · Wᵀ reads W in panels of columns that fill some vector registers, and along its
inner dimension in groups that fill a 32-bit word: [N / panel][K / group][panel][group]. Sets that
also multiply 8-bit integers want the matrices of quantised blocks in a second layout.
"""

from dataclasses import dataclass, replace
from enum import IntFlag
from typing import Literal

import torch

__all__ = ["KERNEL_SETS", "PLAIN", "Feature", "KernelSet", "Layout", "Precision", "kernel_set"]

Precision = Literal["fp32", "bf16"]


class Feature(IntFlag):
    """What a CPU can do, as `convnext_cpu_features` in `native/api.h` reports it."""

    AVX2 = 1
    AVX512 = 2
    AVX512_BF16 = 4
    AVX512_VNNI = 8
    AVX_VNNI = 16
    AMX_BF16 = 32
    AMX_INT8 = 64
    AVX512_FP16 = 128


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a matrix lies in memory.

    Attributes:
        group: Elements of a 32-bit word.
        panel: Columns of a panel; the outputs of every matrix are padded to it.
        k_unit: Inner dimensions are padded to a multiple of it.
        half: Columns of a tile of AMX, whose panels lie as
            [K / k_unit][2 halves][16][16][group]; else 0.
        integer: What a matrix of 8-bit integers consists of.
    """

    group: int
    panel: int
    k_unit: int
    half: int = 0
    integer: torch.dtype = torch.int8


@dataclass(frozen=True, kw_only=True)
class KernelSet(Layout):
    """One set of kernels; the layout is that of its matrices of floating-point numbers.

    Attributes:
        name: As users and logs see it.
        number: As `convnext_kernels` in `native/api.h` counts; negative: no native code.
        precision: Of the matrices; vectors are always fp32, and so are sums, norms and GELU while
            they are computed, but for what `maps` says. On AMX GELU is as exact as bf16 is.
        maps: How the maps between blocks are stored; if in fp16, the sums of depthwise convolutions
            are in fp16 as well, and the network must be one whose values fit.
        otherwise: For other networks then: the set that reads the same packed weights, and has maps
            of a wider range.
        unit: Channels of a map are padded to a multiple of it.
        int8: How the matrices of quantised blocks lie; None: there can be no such blocks.
        needs: What the CPU must be able to do.
    """

    name: str
    number: int
    precision: Precision
    maps: Literal["fp32", "bf16", "fp16"] = "fp32"
    otherwise: "KernelSet | None" = None
    unit: int
    int8: Layout | None = None
    needs: Feature

    @property
    def dtype(self) -> torch.dtype:
        """Of the packed matrices."""
        return torch.float32 if self.precision == "fp32" else torch.bfloat16


# Without padding a packed matrix is the matrix itself: what runs where no native code does.
PLAIN = KernelSet(
    name="plain",
    number=-1,
    precision="fp32",
    group=1,
    panel=1,
    unit=1,
    k_unit=1,
    int8=Layout(group=1, panel=1, k_unit=1),
    needs=Feature(0),
)
_AVX2 = KernelSet(
    name="avx2_fp32",
    number=0,
    precision="fp32",
    group=1,
    panel=16,
    unit=8,
    k_unit=1,
    needs=Feature.AVX2,
)
_AVX512 = KernelSet(
    name="avx512_fp32",
    number=1,
    precision="fp32",
    group=1,
    panel=32,
    unit=16,
    k_unit=1,
    needs=Feature.AVX512,
)
_AVX512_BF16 = replace(
    _AVX512,
    name="avx512_bf16",
    number=2,
    precision="bf16",
    group=2,
    k_unit=2,
    needs=Feature.AVX512 | Feature.AVX512_BF16,
)
_AMX = replace(
    _AVX512_BF16,
    name="amx_bf16",
    number=3,
    maps="bf16",
    unit=32,
    k_unit=32,
    half=16,
    needs=_AVX512_BF16.needs | Feature.AMX_BF16,
)
_AMX_INT8 = replace(
    _AMX,
    name="amx_int8",
    number=5,
    int8=Layout(group=4, panel=32, k_unit=64, half=16),
    needs=_AMX.needs | Feature.AMX_INT8,
)


def _with_half_maps(kernels: KernelSet, number: int) -> KernelSet:
    return replace(
        kernels,
        name=f"{kernels.name}_half",
        number=number,
        maps="fp16",
        otherwise=kernels,
        needs=kernels.needs | Feature.AVX512_FP16,
    )


# From the least to the most able; those for quantised networks last, each like the one whose blocks
# of floating-point numbers it computes.
KERNEL_SETS = (
    PLAIN,
    _AVX2,
    _AVX512,
    _AVX512_BF16,
    _AMX,
    _with_half_maps(_AMX, 8),
    replace(
        _AVX2,
        name="avx2_int8",
        number=6,
        int8=Layout(group=2, panel=16, k_unit=2, integer=torch.int16),
    ),
    replace(
        _AVX2,
        name="avx_vnni_int8",
        number=7,
        int8=Layout(group=4, panel=16, k_unit=4),
        needs=_AVX2.needs | Feature.AVX_VNNI,
    ),
    replace(
        _AVX512,
        name="vnni_int8",
        number=4,
        int8=Layout(group=4, panel=32, k_unit=4),
        needs=_AVX512.needs | Feature.AVX512_VNNI,
    ),
    _AMX_INT8,
    _with_half_maps(_AMX_INT8, 9),
)
_BY_NUMBER = {kernels.number: kernels for kernels in KERNEL_SETS}


def kernel_set(number: int) -> KernelSet:
    """The set of this number.

    Raises:
        ValueError: There is none.
    """
    if number not in _BY_NUMBER:
        known = ", ".join(f"{k.number} ({k.name})" for k in KERNEL_SETS)
        raise ValueError(f"unknown kernel set {number}; known: {known}")
    return _BY_NUMBER[number]
