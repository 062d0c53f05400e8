"""Files and folders to predict on: found lazily, read in batches, in constant memory."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Generic, NamedTuple, TypedDict, TypeVar

import torch
from torch import Tensor

from convnext.data.dataset import Transform
from convnext.data.decode import is_image_name, read_image
from convnext.data.folders import walk
from convnext.data.loading import Loader

V = TypeVar("V")
B = TypeVar("B")


class NamedBatch(TypedDict):
    """image (N, C, H, W) float32 and the N file names."""

    image: Tensor
    name: list[str]


class Unreadable(NamedTuple):
    """A file that is no readable image, and why."""

    name: str
    reason: str


def iter_files(paths: Iterable[str | Path]) -> Iterator[str]:
    """The files named, and every image below the folders named, one after the other.

    Files named one by one are taken whatever their ending; in folders only image endings count.

    Raises:
        ValueError: at once, naming the path that does not exist.
    """
    given = [Path(path).expanduser() for path in paths]
    for path in given:
        if not path.exists():
            raise ValueError(f"{path}: no such file or folder")
    return _iterate(given)


def _iterate(paths: list[Path]) -> Iterator[str]:
    for path in paths:
        if path.is_dir():
            yield from filter(is_image_name, walk(str(path)))
        else:
            yield str(path)


class ReadFiles(Generic[V, B]):
    """Batches of image files; what cannot be read is listed instead of ending the run.

    Args:
        files: names, possibly endless; read only as far as needed.
        read: one file as it goes into a batch; raises ValueError or OSError where it cannot.
        join: the names and the results of one or more files as a batch.
        batch_size: files per batch; a batch is smaller where files are unreadable, and never empty.
        workers: loader processes.

    Attributes:
        unreadable: the unreadable files met so far.
    """

    def __init__(
        self,
        files: Iterable[str],
        read: Callable[[str], V],
        join: Callable[[list[str], list[V]], B],
        *,
        batch_size: int,
        workers: int = 0,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch size {batch_size}: give at least 1")
        self.unreadable: list[Unreadable] = []
        function: Callable[[list[str]], tuple[B | None, list[Unreadable]]]
        function = partial(_read_all, read=read, join=join)
        self._loader = Loader(function, Pieces(files, batch_size), workers=workers)

    def __iter__(self) -> Iterator[B]:
        for batch, unreadable in self._loader:
            self.unreadable += unreadable
            if batch is not None:
                yield batch


class FileBatches(ReadFiles[Tensor, NamedBatch]):
    """Batches of image files; what cannot be read is listed instead of ending the run.

    Args:
        files: names, possibly endless; read only as far as needed.
        transform: image to (C, H, W) tensor, without randomness.
        batch_size: files per batch; a batch is smaller where files are unreadable, and never empty.
        channels: 3 or 1, the colours the transform expects.
        workers: loader processes.

    Attributes:
        unreadable: the unreadable files met so far.
    """

    def __init__(
        self,
        files: Iterable[str],
        transform: Transform,
        *,
        batch_size: int = 32,
        channels: int = 3,
        workers: int = 0,
    ) -> None:
        read = partial(_read, transform=transform, channels=channels)
        super().__init__(files, read, _join, batch_size=batch_size, workers=workers)


class Pieces:
    """Names in lists of a given length, read only as far as they are asked for."""

    def __init__(self, files: Iterable[str], size: int) -> None:
        self._files = files
        self._size = size

    def __iter__(self) -> Iterator[list[str]]:
        files = iter(self._files)
        while piece := list(islice(files, self._size)):
            yield piece


def _read(name: str, *, transform: Transform, channels: int) -> Tensor:
    return transform(read_image(Path(name), channels))


def _join(names: list[str], images: list[Tensor]) -> NamedBatch:
    return {"image": torch.stack(images), "name": names}


def _read_all(
    names: list[str], *, read: Callable[[str], V], join: Callable[[list[str], list[V]], B]
) -> tuple[B | None, list[Unreadable]]:
    views, good, bad = [], [], []
    for name in names:
        try:
            views.append(read(name))
        except (OSError, ValueError) as error:
            bad.append(Unreadable(name, str(error)))
        else:
            good.append(name)
    return (join(good, views) if good else None), bad
