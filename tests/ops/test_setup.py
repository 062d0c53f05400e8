"""What installing from the sources does about the native code."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

pytest.importorskip("setuptools")
ROOT = Path(__file__).resolve().parents[2]


def setup(*arguments, **variables):
    command = [sys.executable, "setup.py", "-q", *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("cxx", ['"', "/no/such/compiler"])
def test_without_a_compiler_it_succeeds_and_says_so(tmp_path, cxx):
    folders = ("--build-lib", tmp_path / "lib", "--build-temp", tmp_path / "temp")
    done = setup("build_ext", *folders, CXX=cxx)
    assert done.returncode == 0, done.stderr
    assert f"native CPU kernels are left out: CXX={cxx} is" in done.stdout + done.stderr


def test_files_of_older_sources_do_not_get_into_a_wheel(tmp_path):
    old = tmp_path / "convnext" / "ops" / "cpu" / "native" / "kernels-0123456789abcdef.so"
    old.parent.mkdir(parents=True)
    old.write_text("old")
    folders = ("--build-lib", tmp_path, "--build-temp", tmp_path / "temp")
    assert setup("build_ext", *folders, CXX="/no/such/compiler").returncode == 0
    assert not old.exists()


def test_a_source_archive_has_all_tests(tmp_path):
    done = setup("egg_info", "--egg-base", tmp_path, "sdist", "--dist-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    wanted = [p for kind in ("py", "cpp") for p in (ROOT / "tests").rglob(f"*.{kind}")]
    assert {str(path.relative_to(ROOT)) for path in wanted} <= names
