"""Reading every image of a data set with all cores, before anything depends on them."""

import hashlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from convnext.data import cache
from convnext.data.config import ImagesConfig
from convnext.data.decode import read_header, read_image
from convnext.data.loading import num_workers
from convnext.data.source import Source
from convnext.data.splits import S, Splits, without

R = TypeVar("R")
T = TypeVar("T", bound=Sized)

_CHUNK = 32
_NAMED = 10
_LINE_SECONDS = 10.0
THUMB = 16


class Record(NamedTuple):
    """What a scan learnt of one image; `error` says why it cannot be read, "" if it can.

    Attributes:
        width: in pixels after the EXIF turn; likewise `height`.
        format: as told by content.
        digest: hash of the file's bytes.
        thumb: 16 x 16 grey values of the decoded image.
    """

    error: str
    width: int = 0
    height: int = 0
    format: str = ""
    digest: bytes = b""
    thumb: bytes = b""


def scan(source: Source, *, label: str, workers: int = -1) -> Iterator[Record]:
    """Decode every image of a source and describe it, in order, with a progress bar."""
    return each(_describe, source, label=label, workers=workers)


def each(
    function: Callable[[T, int], R], source: T, *, label: str, workers: int = -1
) -> Iterator[R]:
    """`function(source, i)` for every image, in order, by all cores, with a progress bar."""
    work = _Chunked(function, source)
    for part in track(_parallel(work, len(source), workers), len(source), label):
        yield from part


def find_unreadable(source: Source, *, label: str, workers: int = -1) -> dict[int, str]:
    """The positions of the images that cannot be read, each with one line that names the file.

    The result is cached until a size or time of a file changes, so that a resumed run need not
    read everything again.
    """
    key = stamp_key(source)
    stored = cache.load("readable", key) if key else None
    if stored is not None:
        return {int(i): text for i, text in stored.items()}
    errors = each(_check, source, label=label, workers=workers)
    bad = {i: error for i, error in enumerate(errors) if error}
    if key:
        cache.store("readable", key, bad)
    return bad


def stamp_key(source: Source) -> str:
    """A text that changes when a file of a source does; "" where that cannot be known."""
    stamps = source.stamps()
    if stamps is None:
        return ""
    digest = hashlib.sha256(np.ascontiguousarray(stamps).tobytes())
    for i in range(len(source)):
        digest.update(os.fsencode(source.name(i)) + b"\0")
    return digest.hexdigest()


def check_images(splits: Splits[S], config: ImagesConfig) -> Splits[S]:
    """Read every image once, before the first training step.

    Returns:
        The splits; with `on_bad_image="skip"` without the unreadable images, which `skipped` names.

    Raises:
        ValueError: naming the unreadable files, with `on_bad_image="stop"`.
    """
    bad: dict[str, NDArray[np.int64]] = {}
    reasons: list[str] = []
    for name, source in splits.named().items():
        found = find_unreadable(source, label=f"checking {name} images")
        bad[name] = np.array(sorted(found), np.int64)
        reasons += [found[i] for i in sorted(found)]
    if not reasons:
        return splits
    if config.on_bad_image == "stop":
        shown = "; ".join(reasons[:_NAMED])
        more = f"; and {len(reasons) - _NAMED} more" if len(reasons) > _NAMED else ""
        raise ValueError(
            f"{len(reasons)} unreadable images: {shown}{more}. Repair or remove them, or leave "
            "them out with on_bad_image = skip"
        )
    return without(splits, bad, tuple(reasons))


def track(
    parts: Iterable[list[R]], total: int, label: str, *, unit: str = "img"
) -> Iterator[list[R]]:
    """Pass lists on and show how many items went by: a bar on a terminal, else a line at times."""
    if sys.stderr.isatty():
        with tqdm(total=total, desc=label, unit=unit) as bar:
            for part in parts:
                bar.update(len(part))
                yield part
        return
    done, last = 0, time.monotonic()
    for part in parts:
        done += len(part)
        if time.monotonic() - last >= _LINE_SECONDS:
            last = time.monotonic()
            print(f"{label}: {done} of {total}", file=sys.stderr, flush=True)
        yield part


class _Chunked(Generic[T, R]):
    """A function of (source, position) over a range of positions, for one task of a process."""

    def __init__(self, function: Callable[[T, int], R], source: T) -> None:
        self.function = function
        self.source = source

    def __call__(self, start: int) -> list[R]:
        stop = min(start + _CHUNK, len(self.source))
        return [self.function(self.source, i) for i in range(start, stop)]


_work: _Chunked[Any, Any] | None = None


def _install(work: _Chunked[Any, Any]) -> None:
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends the pool


def _run(start: int) -> list[Any]:
    assert _work is not None, "the process was started with _install"
    return _work(start)


def _parallel(function: _Chunked[T, R], num: int, workers: int) -> Iterator[list[R]]:
    starts = range(0, num, _CHUNK)
    processes = min(num_workers(workers), len(starts))
    if processes <= 1:
        yield from map(function, starts)
        return
    # fork starts at once; newer Pythons warn of it, because threads of the caller may hold locks.
    context = multiprocessing.get_context("fork" if sys.version_info < (3, 12) else "forkserver")
    with ProcessPoolExecutor(processes, context, _install, (function,)) as pool:
        try:
            yield from pool.map(_run, starts)
        except BrokenProcessPool as error:
            raise OSError(
                "a process that checks the images was ended from outside, most likely for want "
                "of memory; use fewer workers"
            ) from error


def _check(source: Source, i: int) -> str:
    try:
        source.check(i)
    except (OSError, ValueError) as error:
        return str(error)
    return ""


def _describe(source: Source, i: int) -> Record:
    name = source.name(i)
    try:
        data = source.open(i)
        header = read_header(data, name=name)
        image = read_image(data, 1, name=name)
    except OSError as error:
        return Record(f"{name}: cannot be read ({error.strerror or error})")
    except ValueError as error:
        return Record(str(error))
    thumb = image.resize((THUMB, THUMB), Image.Resampling.BOX).tobytes()
    digest = hashlib.blake2b(data, digest_size=16).digest()
    return Record("", image.width, image.height, header.format, digest, thumb)
