"""Results that are kept: computed once, also by processes that ask at the same time."""

import subprocess
import sys
import time
from pathlib import Path

from convnext.data import cache


def slowly(log):
    with log.open("a") as file:
        file.write("computed\n")
    time.sleep(1.0)
    return [1, 2]


def test_one_of_several_processes_computes(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVNEXT_CACHE", str(tmp_path / "cache"))
    command = [sys.executable, __file__, str(tmp_path / "log")]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "computed\n"
    assert cache.load("kind", "key") == [1, 2]
    assert [file.name for file in (tmp_path / "cache" / "kind").iterdir()] == ["key.json"]


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CONVNEXT_CACHE", str(tmp_path / "file"))
    assert cache.computed("kind", "key", lambda: 3) == 3


if __name__ == "__main__":
    assert cache.computed("kind", "key", lambda: slowly(Path(sys.argv[1]))) == [1, 2]
