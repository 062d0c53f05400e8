"""Which set of kernels runs on this CPU, and why.

The environment variable ``CONVNEXT_CPU`` caps what is used, as if the CPU could do no more: avx2,
avx512, avx512_bf16, amx (without AVX512-FP16) or avx512_fp16; off switches native code off.
"""

import logging
import os
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

from convnext.ops.cpu.kernel_sets import KERNEL_SETS, PLAIN, Feature, KernelSet, Precision
from convnext.ops.cpu.library import UnavailableError, library
from convnext.ops.dispatch import use_reference

__all__ = ["VARIABLE", "Choice", "available", "choose", "runs"]

logger = logging.getLogger(__name__)

VARIABLE = "CONVNEXT_CPU"
_AVX512 = Feature.AVX2 | Feature.AVX512 | Feature.AVX512_VNNI | Feature.AVX_VNNI
CAPS = {
    "avx2": Feature.AVX2 | Feature.AVX_VNNI,
    "avx512": _AVX512,
    "avx512_bf16": _AVX512 | Feature.AVX512_BF16,
    "amx": ~Feature.AVX512_FP16,
    "avx512_fp16": ~Feature(0),
}


class Choice(NamedTuple):
    """A set of kernels, and in a few words why this one."""

    kernels: KernelSet
    reason: str


def available(cap: str | None = None) -> Feature:
    """What this CPU can do, as far as it may be used.

    Args:
        cap: A value of ``CONVNEXT_CPU``, in place of the variable's.

    Raises:
        ValueError: There is no such cap.
        UnavailableError: No native code can run; says why.
    """
    source = VARIABLE if cap is None else "cap"
    cap = os.environ.get(VARIABLE, "") if cap is None else cap
    if use_reference():
        raise UnavailableError("the published operators were asked for")
    if cap == "off":
        raise UnavailableError(f"{VARIABLE}=off")
    if cap and cap not in CAPS:
        raise ValueError(f"{source}={cap!r} is unknown; choose one of: {', '.join(CAPS)}, off")
    found = library().features & (CAPS[cap] if cap else ~Feature(0))
    if not found & Feature.AVX2:
        raise UnavailableError("this CPU lacks AVX2 and FMA")
    return found


def choose(dtype: Precision | Literal["int8", "auto"] = "auto", cap: str | None = None) -> Choice:
    """The fastest set of kernels for a precision.

    Args:
        dtype: "fp32"; "bf16"; "int8", for quantised networks; or "auto": bf16 where the CPU
            computes faster in it, else fp32.
        cap: A value of ``CONVNEXT_CPU``, in place of the variable's.

    Returns:
        The choice; plain PyTorch where no native code can run.

    Raises:
        ValueError: The CPU has no kernels for bf16, or the precision or the cap is unknown.
    """
    if dtype not in ("auto", "fp32", "bf16", "int8"):
        raise ValueError(f"dtype={dtype!r} is unknown; choose one of: auto, fp32, bf16, int8")
    try:
        features = available(cap)
    except UnavailableError as why:
        if dtype == "bf16":
            raise ValueError(
                f"dtype='bf16' needs native kernels: {why}; take 'auto' or 'fp32'"
            ) from None
        return Choice(PLAIN, str(why))
    sets = [
        k
        for k in KERNEL_SETS[1:]
        if k.needs & features == k.needs and (k.int8 is not None) == (dtype == "int8")
    ]
    if dtype == "int8":
        return Choice(sets[-1], f"fastest int8 kernels that this CPU runs ({_words(features)})")
    if dtype == "auto":
        slow = not features & Feature.AMX_BF16 and not bf16_is_full_rate()
        sets = [k for k in sets if not (slow and k.precision == "bf16")]
        return Choice(sets[-1], f"fastest kernels that this CPU runs ({_words(features)})")
    sets = [k for k in sets if k.precision == dtype]
    if not sets:
        raise ValueError(
            f"dtype='bf16' needs a CPU with AVX512-BF16 or AMX; this one has {_words(features)}; "
            "take 'auto' or 'fp32'"
        )
    return Choice(sets[-1], f"fastest {dtype} kernels that this CPU runs ({_words(features)})")


def runs(kernels: KernelSet) -> bool:
    """Whether native code of this set runs here; weights may have been packed elsewhere."""
    try:
        return kernels is not PLAIN and kernels.needs & available() == kernels.needs
    except UnavailableError:
        return False


@cache
def bf16_is_full_rate() -> bool:
    """Whether products of bf16 pairs take no longer than those of fp32 numbers.

    They take twice as long on Intel's cores, whose fp32 kernels are then the faster ones.
    """
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "AuthenticAMD" in text


def _words(features: Feature) -> str:
    found = [feature.name or "" for feature in Feature if feature & features]
    return ", ".join(name.replace("_", "-") for name in found)
