"""The library as it is installed: the real instructions, without emulation and without warnings."""

from pathlib import Path

import pytest
import torch
from test_network import CASES, EPS, TOLERANCE, error, random_weights, run

from convnext.ops.cpu import building
from convnext.ops.cpu import library as loading
from convnext.ops.cpu.features import choose, runs
from convnext.ops.cpu.kernel_sets import KERNEL_SETS, PLAIN, Feature
from convnext.ops.cpu.library import Library
from convnext.ops.cpu.packing import pack, unpack
from convnext.ops.cpu.reference import reference

pytestmark = pytest.mark.skipif(
    not building.supported() or not building.compilers(), reason="no compiler for x86-64"
)


def test_what_users_get(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LD_PRELOAD", raising=False)  # a sanitizer is not for the compiler
    monkeypatch.delenv("CONVNEXT_CPU", raising=False)
    loading._share_openmp()
    building.build(tmp_path / "kernels.so", ["-Wall", "-Werror"])
    native = Library(tmp_path / "kernels.so")
    if Feature.AVX2 not in native.features:
        pytest.skip("not even AVX2")
    monkeypatch.setattr(loading, "_loaded", native)
    assert choose("fp32").kernels is not PLAIN
    for kernels in filter(runs, KERNEL_SETS):
        for plan, shape in (CASES["odd sides"], CASES["grn, uneven widths"]):
            x, weights = torch.randn(shape), random_weights(plan)
            rounded = unpack(plan, pack(plan, weights, kernels), kernels)
            expected = reference(plan, x, rounded, EPS)[-1]
            found = run(native, plan, kernels, x, weights)[-1]
            assert error(found, expected) < TOLERANCE[kernels.precision]
