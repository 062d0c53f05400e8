"""Compiling, finding and loading the native code, and what happens where that is impossible."""

import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from convnext.ops.cpu import building, features, library
from convnext.ops.cpu.features import available, choose
from convnext.ops.cpu.kernel_sets import PLAIN, Feature
from convnext.ops.cpu.library import UnavailableError

TOY = """
#include <stdint.h>
extern "C" uint64_t convnext_cpu_features(void) {
  int threads = 0;
#pragma omp parallel num_threads(2)
  {
#pragma omp atomic
    threads += 1;
  }
  return threads == 2 ? 3 : 0;
}
extern "C" int convnext_run(void) { return 2; }
"""
SCRIPT = """
import logging, sys
from pathlib import Path
import torch
from convnext.ops.cpu import building, library
logging.basicConfig(format="%(message)s")
building.SOURCES = Path(sys.argv[1])
print(library.find().path)
"""

needs_compiler = pytest.mark.skipif(
    not building.compilers() or platform.machine() != "x86_64", reason="no compiler for x86-64"
)


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A small library in place of the real one, and a cache of its own."""
    folder = tmp_path / "native"
    folder.mkdir()
    (folder / "toy.cpp").write_text(TOY)
    monkeypatch.setattr(building, "SOURCES", folder)
    monkeypatch.setenv("CONVNEXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CONVNEXT_CPU", raising=False)
    monkeypatch.setattr(library, "_loaded", None)
    return folder


@needs_compiler
def test_what_was_compiled_is_found_again(sources, tmp_path, caplog):
    first = library.find()
    assert first.path.parent == tmp_path / "cache" / "native"
    assert first.features == Feature.AVX2 | Feature.AVX512  # two threads of PyTorch's own pool
    assert "compiling" in caplog.text
    caplog.clear()
    assert library.find().path == first.path
    assert not caplog.text
    assert sorted(p.name for p in first.path.parent.iterdir()) == [first.path.name, "lock"]


@needs_compiler
def test_other_sources_are_another_library(sources):
    first = library.find().path
    (sources / "toy.cpp").write_text(TOY + "// changed\n")
    assert library.find().path != first


@needs_compiler
def test_a_file_of_the_installation_is_preferred(sources, caplog):
    building.build(sources / building.library_name())
    assert library.find().path.parent == sources
    assert not caplog.text


@needs_compiler
def test_a_cached_file_serves_after_the_compiler_is_gone(sources, monkeypatch):
    path = library.find().path
    monkeypatch.setenv("CXX", "/no/such/compiler")
    assert library.find().path == path


@needs_compiler
def test_a_broken_file_is_compiled_anew(sources, monkeypatch, tmp_path):
    name = library.find().path.name
    monkeypatch.setenv("CONVNEXT_CACHE", str(tmp_path / "other"))
    path = library.cache_dir() / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half a file")
    assert library.find().features
    assert path.stat().st_size > 1000


@needs_compiler
def test_processes_that_start_together_compile_once(sources, tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(sources)]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    assert answers[0][0] == answers[1][0] != ""
    assert sum("compiling" in err for _, err in answers) == 1


def test_no_compiler_is_said_once(sources, monkeypatch, caplog):
    monkeypatch.setenv("CXX", "/no/such/compiler")
    for _ in range(2):
        with pytest.raises(UnavailableError, match="CXX=/no/such/compiler is not there"):
            library.library()
    assert len(caplog.records) == 1
    assert "plain PyTorch runs instead" in caplog.text
    assert choose("fp32").kernels is PLAIN
    with pytest.raises(ValueError, match=r"dtype='bf16' needs native kernels.*compiler"):
        choose("bf16")


@needs_compiler
def test_a_compiler_that_fails_is_quoted(sources):
    (sources / "toy.cpp").write_text("int main( {\n")
    with pytest.raises(UnavailableError, match=r"c\+\+ failed: .*error"):
        library.find()
    assert [path.name for path in library.cache_dir().iterdir()] == ["lock"]


@needs_compiler
def test_a_library_that_lacks_its_functions_is_not_used(sources):
    (sources / "toy.cpp").write_text("int nothing;\n")
    with pytest.raises(UnavailableError, match="does not load"):
        library.find()


def test_a_cache_that_cannot_be_written_is_named(sources, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CONVNEXT_CACHE", str(tmp_path / "file"))
    with pytest.raises(UnavailableError, match=r"file.native cannot be written .*CONVNEXT_CACHE"):
        library.find()


def test_other_machines_have_no_native_code(sources, monkeypatch):
    monkeypatch.setattr(building.platform, "machine", lambda: "aarch64")
    with pytest.raises(UnavailableError, match="x86-64"):
        library.find()


def cpu(monkeypatch, found, amd=False):
    monkeypatch.delenv("CONVNEXT_CPU", raising=False)
    monkeypatch.setattr(features, "library", lambda: SimpleNamespace(features=found))
    monkeypatch.setattr(features, "bf16_is_full_rate", lambda: amd)


AVX512 = Feature.AVX2 | Feature.AVX512
BF16 = AVX512 | Feature.AVX512_BF16


@pytest.mark.parametrize(
    ("found", "amd", "auto", "fp32", "bf16"),
    [
        (Feature.AVX2, True, "avx2_fp32", "avx2_fp32", ""),
        (AVX512, False, "avx512_fp32", "avx512_fp32", ""),
        (BF16, False, "avx512_fp32", "avx512_fp32", "avx512_bf16"),
        (BF16, True, "avx512_bf16", "avx512_fp32", "avx512_bf16"),
        (BF16 | Feature.AMX_BF16, False, "amx_bf16", "avx512_fp32", "amx_bf16"),
    ],
)
def test_the_fastest_kernels_of_each_cpu(monkeypatch, found, amd, auto, fp32, bf16):
    cpu(monkeypatch, found, amd)
    assert choose().kernels.name == choose("auto").kernels.name == auto
    assert choose("fp32").kernels.name == fp32
    if bf16:
        assert choose("bf16").kernels.name == bf16
    else:
        with pytest.raises(ValueError, match=r"needs a CPU with AVX512-BF16 or AMX; .* AVX2"):
            choose("bf16")


def test_the_variable_caps_the_cpu(monkeypatch):
    cpu(monkeypatch, BF16 | Feature.AMX_BF16)
    names = {"avx2": "avx2_fp32", "avx512": "avx512_fp32", "amx": "amx_bf16"}
    for cap, name in names.items():
        monkeypatch.setenv("CONVNEXT_CPU", cap)
        assert choose().kernels.name == name
    assert choose(cap="avx2").kernels.name == "avx2_fp32"
    monkeypatch.setenv("CONVNEXT_CPU", "off")
    assert choose() == (PLAIN, "CONVNEXT_CPU=off")
    monkeypatch.setenv("CONVNEXT_CPU", "sse")
    with pytest.raises(ValueError, match="CONVNEXT_CPU='sse' is unknown"):
        choose()
    with pytest.raises(ValueError, match="dtype='int3' is unknown"):
        choose("int3")


def test_a_cpu_without_avx2_has_no_kernels(monkeypatch):
    cpu(monkeypatch, Feature(0))
    with pytest.raises(UnavailableError, match="lacks AVX2"):
        available()
    assert choose().kernels is PLAIN


def test_switching_off_compiles_nothing(sources, monkeypatch):
    monkeypatch.setenv("CONVNEXT_CPU", "off")
    assert choose().kernels is PLAIN
    assert not os.path.exists(library.cache_dir())  # noqa: PTH110
