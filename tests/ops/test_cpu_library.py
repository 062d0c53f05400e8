"""Compiling, finding and loading the native code, and what happens where that is impossible."""

import fcntl
import os
import platform
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from convnext.ops.cpu import building, cache, library
from convnext.ops.cpu.features import choose
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
    if found := building.compilers():  # one of several
        monkeypatch.setattr(building, "NAMES", (found[0][0],))
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
    path = cache.cache_dir() / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half a file")
    assert library.find().features
    assert path.stat().st_size > 1000


@needs_compiler
@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.6, 0.9, 1])
def test_a_file_that_was_cut_off_is_compiled_anew(sources, monkeypatch, tmp_path, share):
    whole = library.find().path
    monkeypatch.setenv("CONVNEXT_CACHE", str(tmp_path / "other"))
    path = cache.cache_dir() / whole.name
    path.parent.mkdir(parents=True)
    content = whole.read_bytes()
    path.write_bytes(content[: int(share * (len(content) - 1))])
    with pytest.raises(OSError, match="not a whole library"):
        library.Library(path)
    assert library.find().features
    assert path.stat().st_size == len(content)


@needs_compiler
def test_a_file_that_was_cut_off_and_no_compiler(sources, monkeypatch):
    path = library.find().path
    content = path.read_bytes()
    path.unlink()  # this process has loaded it, and would die of a change
    path.write_bytes(content[:5000])
    monkeypatch.setenv("CXX", "/no/such/compiler")
    with pytest.raises(UnavailableError, match="is not there"):
        library.find()


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
    names = sorted(path.name for path in cache.cache_dir().iterdir())
    assert len(names) == 2  # no library, nothing half done
    assert names[0].endswith(".so.failed")
    assert names[1] == "lock"


@needs_compiler
def test_a_compiler_that_fails_is_not_asked_again_for_a_day(sources, caplog):
    (sources / "toy.cpp").write_text("int main( {\n")
    with pytest.raises(UnavailableError):
        library.find()
    caplog.clear()
    with pytest.raises(UnavailableError, match=r"failed: .*error.*for a day; delete it to try"):
        library.find()
    assert "compiling" not in caplog.text
    (record,) = cache.cache_dir().glob("*.failed")
    os.utime(record, (0, 0))
    with pytest.raises(UnavailableError):
        library.find()
    assert "compiling" in caplog.text
    (sources / "toy.cpp").write_text(TOY)
    assert library.find().features


@needs_compiler
def test_what_does_not_load_is_not_compiled_again(sources, caplog):
    (sources / "toy.cpp").write_text("int nothing;\n")
    for _ in range(2):
        with pytest.raises(UnavailableError, match="does not load"):
            library.find()
    assert caplog.text.count("compiling") == 1


def test_a_compiler_that_was_killed_may_succeed_the_next_time(sources, monkeypatch, tmp_path):
    a_compiler(tmp_path, "killed", "__GNUC__ 13")
    with (tmp_path / "killed").open("a") as file:
        file.write('case "$*" in *-shared*|*-c*) kill -9 $$;; esac\n')
    monkeypatch.setenv("CXX", str(tmp_path / "killed"))
    with pytest.raises(UnavailableError, match="killed failed"):
        library.find()
    assert not list(cache.cache_dir().glob("*.failed"))


@needs_compiler
def test_a_file_is_named_after_the_compiler_and_its_flags(sources, monkeypatch):
    (compiler, *_), paths = building.compilers(), set()
    for flags in ([], ["-O1"], ["-g", "-O1"]):
        monkeypatch.setenv("CXX", " ".join([*compiler, *flags]))
        paths.add(library.find().path)
    assert len(paths) == 3


@needs_compiler
def test_a_file_is_named_after_the_compiler_that_built_it(sources, monkeypatch, tmp_path):
    (good, *_) = building.compilers()
    a_compiler(tmp_path, "bad", "__GNUC__ 13")
    with (tmp_path / "bad").open("a") as file:
        file.write('case "$*" in *-o*) echo "error: broken" >&2; exit 1;; esac\n')
    monkeypatch.setattr(building, "compilers", lambda: [[str(tmp_path / "bad")], good])
    path = library.find().path
    monkeypatch.setattr(building, "compilers", lambda: [good])
    assert library.find().path == path


@needs_compiler
def test_waiting_for_another_process_is_said(sources, caplog):
    folder = cache.cache_dir()
    folder.mkdir(parents=True)
    lock = (folder / "lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    with ThreadPoolExecutor() as pool:
        found = pool.submit(library.find)
        while "waiting" not in caplog.text:
            assert not found.done()
            time.sleep(0.01)
        lock.close()
        assert found.result().features


def give_away(path):
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    os.chown(path, 12345, 12345)


@needs_compiler
def test_nobody_else_can_write_what_is_run(sources):
    before = os.umask(0)
    try:
        path = library.find().path
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(p.stat().st_mode) for p in (path.parent, path, path.parent / "lock")]
    assert modes == [0o700, 0o755, 0o600]


@needs_compiler
@pytest.mark.parametrize("change", ["owner", "mode", "link"])
def test_a_file_that_others_can_write_is_compiled_anew(sources, caplog, change):
    path = library.find().path
    number = path.stat().st_ino
    if change == "link":
        path.rename(sources / "elsewhere")
        path.symlink_to(sources / "elsewhere")
    elif change == "mode":
        path.chmod(0o775)
    else:
        give_away(path)
    caplog.clear()
    assert library.find().features
    assert "so it is not loaded" in caplog.text
    assert path.lstat().st_ino != number
    assert cache.trusted(path)


@needs_compiler
@pytest.mark.parametrize("change", ["owner", "mode"])
def test_a_folder_of_others_is_left_alone(sources, caplog, change):
    folder = library.find().path.parent
    if change == "mode":
        folder.chmod(0o777)
    else:
        give_away(folder)
    caplog.clear()
    private = library.find().path.parent
    assert private == folder.with_name(f"native-{os.geteuid()}")
    assert f"compiled kernels are kept in {private}" in caplog.text
    private.chmod(0o777)
    with pytest.raises(UnavailableError, match="set CONVNEXT_CACHE to a folder of yours"):
        library.find()


def test_a_lock_that_is_a_link_is_refused(sources, tmp_path):
    folder = cache.cache_dir()
    folder.mkdir(parents=True)
    (tmp_path / "precious").write_text("kept")
    (folder / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="lock"), cache.locked(folder):
        pass
    assert (tmp_path / "precious").read_text() == "kept"


def no_home(monkeypatch):
    for name in ("CONVNEXT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(cache.Path, "home", home)


def test_a_user_without_a_home(sources, monkeypatch):
    no_home(monkeypatch)
    with pytest.raises(UnavailableError, match=r"no home folder.*set CONVNEXT_CACHE"):
        library.find()
    monkeypatch.setenv("CONVNEXT_CACHE", "~no-such-user-here/cache")
    with pytest.raises(UnavailableError, match="no home folder"):
        library.find()


@needs_compiler
def test_the_installed_file_needs_no_home(sources, monkeypatch):
    building.build(sources / building.library_name())
    no_home(monkeypatch)
    assert library.find().path.parent == sources


def test_a_command_that_is_none_is_quoted(sources, monkeypatch):
    monkeypatch.setenv("CXX", '"')
    with pytest.raises(UnavailableError, match='CXX=" is no command'):
        library.find()
    with pytest.raises(building.BuildError, match="is no command"):  # which setup.py catches
        building.build(sources / "x.so")


@needs_compiler
def test_no_threads_to_compile_in(sources, monkeypatch):
    def submit(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(building.ThreadPoolExecutor, "submit", submit)
    with pytest.raises(UnavailableError, match="compilers cannot be started"):
        library.find()


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


@needs_compiler
@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_cache_that_is_read_only_serves_what_it_has(sources):
    path = library.find().path
    path.parent.chmod(0o500)
    try:
        assert library.find().path == path
        path.parent.chmod(0o700)
        path.unlink()
        path.parent.chmod(0o500)
        with pytest.raises(UnavailableError, match=r"native cannot be written .*Permission"):
            library.find()
    finally:
        path.parent.chmod(0o700)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no folder that all may only read")  # noqa: PTH112
def test_a_cache_on_a_read_only_file_system(sources, monkeypatch):
    monkeypatch.setenv("CONVNEXT_CACHE", "/proc/self/fdinfo")
    with pytest.raises(UnavailableError, match=r"/proc/self/fdinfo/native cannot be written"):
        library.find()


@needs_compiler
def test_a_full_disk_is_an_error_in_a_line(sources):
    """No file may grow beyond some bytes, which ends a compiler as a full disk does."""
    command = [sys.executable, "-c", SCRIPT, str(sources)]
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900))\n"
    command[2] = limit + SCRIPT
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("convnext.ops.cpu.library.UnavailableError: "), done.stderr
    assert [path.name for path in cache.cache_dir().iterdir()] == ["lock"]


def a_compiler(folder, name, *macros):
    folder.mkdir(exist_ok=True)
    path = folder / name
    lines = "".join(f"echo '#define {macro}'\n" for macro in macros)
    path.write_text(f"#!/bin/sh\n{lines}")
    path.chmod(0o755)


def test_only_gcc_is_taken(sources, monkeypatch, tmp_path):
    monkeypatch.setattr(building, "NAMES", ("c++", "g++", "g++-13", "g++-12"))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    a_compiler(tmp_path / "bin", "c++", "__GNUC__ 4", "__clang__ 1")
    assert building.compilers() == []
    with pytest.raises(UnavailableError, match=r"^c\+\+ is not GCC; install g\+\+ 11 or newer$"):
        library.find()
    a_compiler(tmp_path / "bin", "g++", "__GNUC__ 9")
    with pytest.raises(UnavailableError, match=r"^c\+\+ is not GCC, g\+\+ is GCC 9; install"):
        library.find()
    a_compiler(tmp_path / "bin", "g++-13", "__GNUC__ 13")
    assert building.compilers() == [["g++-13"]]
    (tmp_path / "bin" / "g++-12").symlink_to("g++-13")
    assert building.compilers() == [["g++-13"]]
    monkeypatch.setenv("CXX", "g++-13 -m64")
    assert building.compilers() == [["g++-13", "-m64"]]
    monkeypatch.setenv("CXX", "c++")
    assert building.compilers() == []


def test_other_machines_have_no_native_code(sources, monkeypatch):
    monkeypatch.setattr(building.platform, "machine", lambda: "aarch64")
    with pytest.raises(UnavailableError, match="x86-64"):
        library.find()


def test_switching_off_compiles_nothing(sources, monkeypatch):
    monkeypatch.setenv("CONVNEXT_CPU", "off")
    assert choose().kernels is PLAIN
    assert not os.path.exists(cache.cache_dir())  # noqa: PTH110
