"""Files that a run resumes from: written whole or not at all, read without running code."""

import contextlib
import errno
import io
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

FORMAT = 1
BEST = "best.pt"
_NAME = re.compile(r"step_(\d+)\.pt")
_TEMPORARY = ".tmp"


class BrokenCheckpointError(ValueError):
    """The file is cut short or damaged."""


def paths(folder: Path) -> list[Path]:
    """Resume checkpoints in a folder, newest first."""
    found = [path for path in folder.glob("step_*.pt") if _NAME.fullmatch(path.name)]
    return sorted(found, key=_step, reverse=True)


def latest(folder: Path) -> Path | None:
    """The newest checkpoint that is not cut short, or None."""
    return next((path for path in paths(folder) if zipfile.is_zipfile(path)), None)


def save(folder: Path, step: int, state: dict[str, Any], *, keep: int) -> Path:
    """Write the checkpoint of a step, then delete all but the `keep` newest.

    Raises:
        OSError: it could not be written; older checkpoints are untouched.
    """
    path = folder / f"step_{step:08d}.pt"
    _write(path, state)
    for old in paths(folder)[keep:]:
        old.unlink()
    return path


def save_best(folder: Path, state: dict[str, Any]) -> Path:
    """Write (or replace) the best weights' file.

    Raises:
        OSError: it could not be written; the older one is untouched.
    """
    path = folder / BEST
    _write(path, state)
    return path


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint of this package: tensors and plain values, never code.

    Raises:
        BrokenCheckpointError: the file is cut short or damaged.
        ValueError: the file is something else, for instance a pickle with code.
        OSError: the file is not there or may not be read.
    """
    with path.open("rb") as file:
        start = file.read(4)
    if start[:1] == b"\x80":
        raise ValueError(f"{path} is a bare pickle, which may run code: it was not loaded")
    if not _is_whole(path):
        raise BrokenCheckpointError(f"{path} is cut short or damaged")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(
            f"{path} holds more than tensors and plain values, so loading it could run code: "
            "it was not loaded"
        ) from None
    except (RuntimeError, EOFError, KeyError) as error:
        raise BrokenCheckpointError(f"{path} is damaged: {str(error).splitlines()[0]}") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"{path} is no checkpoint of a convnext training run")
    return state


def load_latest(folder: Path, say: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
    """Read the newest whole checkpoint, saying which broken ones were passed over.

    Raises:
        ValueError: there are checkpoints, but none can be read, or one was refused.
    """
    broken = []
    for path in paths(folder):
        try:
            return path, load(path)
        except BrokenCheckpointError as error:
            broken.append(path.name)
            say(f"{error}; falling back to the checkpoint before it")
    if broken:
        raise ValueError(
            f"no checkpoint in {folder} can be read ({', '.join(broken)}): "
            "delete the folder to start the run anew"
        )
    return None


def remove_temporary(folder: Path) -> None:
    """Delete what a killed process had half written."""
    for path in folder.glob(f"*{_TEMPORARY}"):
        path.unlink()


class _Sink(io.RawIOBase):
    """A file for `torch.save` that keeps an error for later.

    An exception raised inside torch's writer would be lost in its C++ code and the writer's own
    clean-up would fail over it.
    """

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self.error = error
        return len(data)


def _write(path: Path, state: dict[str, Any]) -> None:
    """Write under a temporary name, sync, rename, sync the folder."""
    temporary = path.with_name(path.name + _TEMPORARY)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            sink = _Sink(file)
            torch.save({"format": FORMAT, **state}, sink)  # type: ignore[arg-type]
            if sink.error is not None:
                raise sink.error
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise _explained(error, path) from error


def _is_whole(path: Path) -> bool:
    """Whether every part of a zip file has its checksum, which torch itself does not look at."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except zipfile.BadZipFile:
        return False


def _explained(error: OSError, path: Path) -> OSError:
    good = latest(path.parent)
    kept = f"the last good checkpoint is {good}" if good else "there is no earlier checkpoint"
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "make room" if full else "make the folder writable"
    reason = "no space left" if full else os.strerror(error.errno or 0)
    return OSError(
        error.errno,
        f"could not write {path}: {reason}; {kept}; {remedy} and run the same command again",
    )


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _step(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])
