"""The native library as the tests of a whole network take it."""

import os
import sys
from pathlib import Path

import pytest

from convnext.ops.cpu import building
from convnext.ops.cpu import library as loading
from convnext.ops.cpu.kernel_sets import Feature
from convnext.ops.cpu.library import Library

sys.path.insert(0, str(Path(__file__).parent))  # for what tests share


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> Library:
    loading._share_openmp()
    target = tmp_path_factory.mktemp("native") / "emulated.so"
    # -O1: the emulation of wide vectors takes long to compile otherwise
    flags = ["-DCONVNEXT_EMULATE", "-O1", "-Wno-psabi", "-Werror"]
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("LD_PRELOAD", raising=False)  # a sanitizer is not for the compiler
        building.build(target, [*flags, *os.environ.get("CONVNEXT_TEST_FLAGS", "").split()])
    library = Library(target)
    if Feature.AVX2 not in library.features:
        pytest.skip("not even AVX2")
    return library
