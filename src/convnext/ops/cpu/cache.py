"""Where compiled kernels are kept between processes: a folder to which only this user can write.

What lies there is run, so another user's file must not be taken for ours.
"""

import fcntl
import logging
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from convnext.ops.cpu.building import BuildError

__all__ = ["cache_dir", "failure", "locked", "own_folder", "remember_failure", "trusted"]

logger = logging.getLogger(__name__)

DAY = 24 * 3600  # seconds after which a compiler that failed is tried again


def cache_dir() -> Path:
    """`native` in `$CONVNEXT_CACHE`, else in `convnext` in the user's cache folder.

    Raises:
        BuildError: The user has no home folder.
    """
    try:
        if own := os.environ.get("CONVNEXT_CACHE"):
            return Path(own).expanduser() / "native"
        base = os.environ.get("XDG_CACHE_HOME")
        folder = Path(base).expanduser() if base else Path.home() / ".cache"
    except RuntimeError:  # neither $HOME nor an entry among the users
        raise BuildError(
            "this user has no home folder for compiled kernels; set CONVNEXT_CACHE to a folder"
        ) from None
    return folder / "convnext" / "native"


def own_folder() -> Path:
    """`cache_dir`, or if others can write there a folder beside it; it need not exist yet.

    Raises:
        BuildError: Others can write to both.
    """
    folder = cache_dir()
    why = _foreign_folder(folder)
    if not why:
        return folder
    private = folder.with_name(f"{folder.name}-{os.geteuid()}")
    if _foreign_folder(private):
        raise BuildError(f"{why}, and {private} no less; set CONVNEXT_CACHE to a folder of yours")
    logger.warning("%s; compiled kernels are kept in %s", why, private)
    return private


def _foreign(path: Path, status: os.stat_result) -> str:
    """Why another user may have written what lies there; empty if nobody but root can have."""
    if status.st_uid not in (os.geteuid(), 0):
        return f"{path} belongs to user {status.st_uid}"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"{path} can be written by other users"
    return ""


def _foreign_folder(path: Path) -> str:
    try:
        return _foreign(path, path.stat())
    except OSError:
        return ""  # to be made, or there is a better reason when that fails


def trusted(path: Path) -> bool:
    """Whether a file is there that may be run; says why not."""
    try:
        status = path.lstat()
    except OSError:
        return False
    why = _foreign(path, status) if stat.S_ISREG(status.st_mode) else f"{path} is not a plain file"
    if why:
        logger.warning("%s, so it is not loaded", why)
    return not why


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time; the lock ends with the process, however it ends.

    Raises:
        BuildError: Another user has made the folder in the meantime.
        OSError: It cannot be written.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if why := _foreign_folder(folder):
        raise BuildError(why)
    flags = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    lock = os.open(folder / "lock", flags, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.warning("another process compiles the native CPU kernels; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def failure(target: Path) -> str:
    """Why compiling this file failed not long ago; empty if it did not."""
    path = _record(target)
    try:
        age = time.time() - path.stat().st_mtime
        reason = path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
    if not reason or not 0 <= age < DAY:
        return ""
    return f"{reason} (as {path} remembers for a day; delete it to try again)"


def remember_failure(target: Path, reason: str) -> None:
    """Keep other processes from compiling in vain."""
    with suppress(OSError):
        _record(target).write_text(reason + "\n", encoding="utf-8")


def _record(target: Path) -> Path:
    """Beside the file, whose name stands for sources and compiler."""
    return target.with_name(f"{target.name}.failed")
