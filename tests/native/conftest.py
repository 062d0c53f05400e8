"""The native library as the tests of a whole network take it."""

import os
import sys
from pathlib import Path

import pytest

from convnext.ops.cpu import building, cache
from convnext.ops.cpu import library as loading
from convnext.ops.cpu.kernel_sets import Feature
from convnext.ops.cpu.library import Library

sys.path.insert(0, str(Path(__file__).parent))  # for what tests share


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Emulated everywhere; where the CPU has more than AVX2, with its own instructions as well."""
    if "native" in metafunc.fixturenames:
        cpu = Path("/proc/cpuinfo")
        flags = cpu.read_text().split() if cpu.is_file() else []
        more = "avx512f" in flags or "avx_vnni" in flags
        builds = ["emulated", "real"] if more else ["emulated"]
        metafunc.parametrize("native", builds, indirect=True, scope="session")


@pytest.fixture(scope="session")
def native(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Library:
    library = loading.find() if request.param == "real" else _emulated(tmp_path_factory)
    if Feature.AVX2 not in library.features:
        pytest.skip("not even AVX2")
    if request.param == "emulated":
        assert all(feature in library.features for feature in Feature)
    return library


def _emulated(tmp_path_factory: pytest.TempPathFactory) -> Library:
    loading._share_openmp()
    shared = tmp_path_factory.getbasetemp()  # of all processes that share the tests
    folder = (shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared) / "native"
    target = folder / "emulated.so"
    # -O1: the emulation of wide vectors takes long to compile otherwise
    flags = ["-DCONVNEXT_EMULATE", "-O1", "-Wno-psabi", "-Werror"]
    with cache.locked(folder), pytest.MonkeyPatch.context() as patch:
        patch.delenv("LD_PRELOAD", raising=False)  # a sanitizer is not for the compiler
        if not target.exists():
            building.build(target, [*flags, *os.environ.get("CONVNEXT_TEST_FLAGS", "").split()])
    return Library(target)


@pytest.fixture(autouse=True)
def _only_kernels_that_run(request: pytest.FixtureRequest) -> None:
    if "native" in request.fixturenames:
        kernels = request.node.callspec.params.get("kernels")
        if kernels and kernels.needs not in request.getfixturevalue("native").features:
            pytest.skip(f"this CPU has not what {kernels.name} needs")
