"""Parts of the kernels behind a C interface, compiled by themselves."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

HERE = Path(__file__).parent
NATIVE = HERE.parents[1] / "src/convnext/ops/cpu/native"
FLAGS = ["-O2", "-std=c++17", "-fPIC", "-ffp-contract=fast", "-fno-math-errno"]
STRICT = ["-Wall", "-Wextra", "-Werror", "-Wno-psabi"]
COMPILER = shutil.which("g++") or shutil.which("clang++")

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")


def compile_part(name: str, out: Path, *flags: str) -> None:
    """The source of that name in this folder, every warning an error."""
    command = [COMPILER, *FLAGS, *STRICT, f"-I{NATIVE}", *flags, HERE / name, "-o", out]
    subprocess.run(command, check=True)


def emulated(name: str, folder: Path) -> ctypes.CDLL:
    """The source as a library, its instructions emulated where AVX2 lacks them."""
    if "fma" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("the emulation needs fused multiply-adds")
    out = folder / "emulated.so"
    compile_part(name, out, "-shared", "-mavx2", "-mfma", "-DCONVNEXT_EMULATE")
    return ctypes.CDLL(str(out))


def aligned(x: Tensor) -> Tensor:
    """A copy that starts on a cache line."""
    size = x.numel() * x.element_size()
    memory = torch.empty(size + 64, dtype=torch.uint8)
    start = -memory.data_ptr() % 64
    return memory[start : start + size].view(x.dtype).view(x.shape).copy_(x)
