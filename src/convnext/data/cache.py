"""Where results that are slow to compute are kept between runs."""

import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def cache_dir() -> Path:
    """`$CONVNEXT_CACHE`, else `convnext` below `$XDG_CACHE_HOME` or `~/.cache`."""
    if own := os.environ.get("CONVNEXT_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "convnext"


def load(kind: str, key: str) -> Any:
    """The value stored under a key, None if there is none or it cannot be read."""
    try:
        return json.loads((cache_dir() / kind / f"{key}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def store(kind: str, key: str, value: Any) -> None:
    """Keep a value as JSON; a cache that cannot be written is no error."""
    folder = cache_dir() / kind
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        # Two processes may store the same key: each writes its own file, the rename decides.
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False, encoding="utf-8") as file:
            json.dump(value, file)
        Path(file.name).replace(folder / f"{key}.json")


def computed(kind: str, key: str, compute: Callable[[], Any]) -> Any:
    """The value stored under a key, or what `compute` gives, which is then stored.

    Of several processes that ask at once one computes, and the others wait for it.
    """
    with _claimed(kind, key):
        value = load(kind, key)
        if value is None:
            value = compute()
            store(kind, key, value)
    return value


@contextmanager
def _claimed(kind: str, key: str) -> Iterator[None]:
    """Keep other processes from a key; where the cache cannot be written, nobody waits."""
    try:
        folder = cache_dir() / kind
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / f"{key}.lock").open("w")
    except OSError:
        yield
        return
    with file:
        with suppress(OSError):  # some file systems know no locks
            # lockf, not flock: processes that `compute` starts must not inherit the lock
            fcntl.lockf(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            with suppress(OSError):
                Path(file.name).unlink()
