"""A source: images by number, as bytes with a name and a label, picklable and cheap to copy."""

import copy
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convnext.data.decode import read_image

UNLABELLED = -1


class PackedStrings(Sequence[str]):
    """Many strings in two arrays.

    A list of a million Python strings is copied page by page into every forked loader process,
    because reading one changes its reference count. These arrays stay shared.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        parts = [os.fsencode(text) for text in strings]
        lengths = np.fromiter((len(part) for part in parts), np.int64, len(parts))
        self._ends = np.cumsum(lengths)
        self._bytes = np.frombuffer(b"".join(parts), np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, i: int) -> str:  # type: ignore[override] # slices are not needed
        start = int(self._ends[i - 1]) if i else 0
        return os.fsdecode(self._bytes[start : int(self._ends[i])].tobytes())


class Source(ABC):
    """Images by position 0..len-1.

    Attributes:
        labels: int64, one per image, `UNLABELLED` (-1) where unknown.
        read_block: how many neighbouring images are cheap to read together (1 = no preference).
        shapes: a number per image, equal for images that are best batched together; None = any.
    """

    read_block = 1
    shapes: NDArray[np.int64] | None = None

    def __init__(self, labels: NDArray[np.int64]) -> None:
        self.labels = labels
        self._rows = np.arange(len(labels))

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, i: int) -> str:
        """What to call image `i` in messages and tables; printable in any case."""
        return os.fsencode(self._name(int(self._rows[i]))).decode("utf-8", "backslashreplace")

    def key(self, i: int) -> str:
        """The name of image `i` that does not change when the data move to another folder."""
        return self._key(int(self._rows[i]))

    def open(self, i: int) -> bytes:
        """The encoded bytes of image `i`.

        Raises:
            OSError: if it cannot be read.
        """
        return self._open(int(self._rows[i]))

    def read(self, i: int, channels: int = 3) -> Image.Image:
        """Image `i`, decoded and upright, of mode "RGB" (3 channels) or "L" (1).

        Raises:
            ValueError: naming the file that is no readable image.
            OSError: naming the file that cannot be read.
        """
        name = self.name(i)
        try:
            data = self.open(i)
        except OSError as error:
            raise OSError(f"{name}: cannot be read ({error.strerror or error})") from error
        return self._decode(i, data, channels, name)

    def check(self, i: int) -> None:
        """Read all there is of image `i`, as training will.

        Raises:
            ValueError: naming the file that cannot be used.
            OSError: naming the file that cannot be read.
        """
        self.read(i)

    def class_counts(self, num_classes: int) -> NDArray[np.int64]:
        """How many training examples each class has, (num_classes,)."""
        return np.bincount(self.labels, minlength=num_classes)

    def subset(self, indices: NDArray[np.int64]) -> Self:
        """The same images in another order, or fewer of them; the storage is shared."""
        other = copy.copy(self)
        other._rows = self._rows[indices]
        other.labels = self.labels[indices]
        other.shapes = None if self.shapes is None else self.shapes[indices]
        return other

    def relabelled(self, labels: NDArray[np.int64]) -> Self:
        """The same images with other labels."""
        assert len(labels) == len(self)
        other = copy.copy(self)
        other.labels = labels
        return other

    def stamps(self) -> NDArray[np.int64] | None:
        """Numbers that change when an image changes (sizes and times), None where unknown."""
        return None

    def _decode(self, i: int, data: bytes, channels: int, name: str) -> Image.Image:
        return read_image(data, channels, name=name)

    @abstractmethod
    def _name(self, row: int) -> str: ...

    def _key(self, row: int) -> str:
        return self._name(row)

    @abstractmethod
    def _open(self, row: int) -> bytes: ...


class FileSource(Source):
    """Image files below a root folder.

    Args:
        root: folder that relative paths start from.
        paths: one per image, relative to `root` or absolute.
        labels: (N,) int64.
    """

    def __init__(self, root: str, paths: Iterable[str], labels: NDArray[np.int64]) -> None:
        super().__init__(labels)
        self._root = root
        self._paths = PackedStrings(paths)
        assert len(self._paths) == len(labels)

    def path(self, i: int) -> Path:
        """Where the file of image `i` is."""
        return Path(self._root, self._paths[int(self._rows[i])])

    def _name(self, row: int) -> str:
        return str(Path(self._root, self._paths[row]))

    def _key(self, row: int) -> str:
        return self._paths[row]

    def _open(self, row: int) -> bytes:
        with open(os.path.join(self._root, self._paths[row]), "rb") as file:  # noqa: PTH118, PTH123
            return file.read()

    def stamps(self) -> NDArray[np.int64] | None:
        """Size and time of change of every file; -1 for a missing one."""
        stamps = np.full((len(self), 2), -1, np.int64)
        for i, row in enumerate(self._rows):
            try:
                status = os.stat(os.path.join(self._root, self._paths[int(row)]))  # noqa: PTH116, PTH118
            except OSError:
                continue
            stamps[i] = status.st_size, status.st_mtime_ns
        return stamps
