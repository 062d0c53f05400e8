"""What one split of the data holds before its labels are matched with the other splits."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convnext.data.source import Source

SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True)
class Listing:
    """Images of one split; `source.labels` number the names in `classes`.

    Attributes:
        empty: names of class folders without an image (they are in `classes`, too).
        ignored: number of files left out because their name is no image's.
    """

    source: Source
    classes: tuple[str, ...]
    empty: tuple[str, ...] = ()
    ignored: int = 0


def split_of(name: str) -> str | None:
    """The split ("train", "val" or "test") that a name of a folder, file or cell means, if any."""
    for split, names in SPLIT_NAMES.items():
        if name.strip().lower() in names:
            return split
    return None


def read_class_names(folder: Path) -> tuple[str, ...] | None:
    """The lines of `classes.txt` in a folder, if there is one: line i names label i.

    Raises:
        ValueError: if a name is given twice.
    """
    path = folder / "classes.txt"
    if not path.is_file():
        return None
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    names = tuple(line.strip() for line in lines if line.strip())
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{path}: class {twice[0]!r} is named twice")
    return names


def number_labels(
    values: Sequence[str], names: tuple[str, ...] | None, where: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels as written (names or whole numbers) to numbers 0..K-1 and the K class names.

    With `names` (from `classes.txt`) a label is one of them or its position. Without, the classes
    are the distinct labels in order: numeric if all are whole numbers, else by text.

    Raises:
        ValueError: naming the label, if it is out of range or unknown.
    """
    distinct = sorted(set(values))
    if names is not None:
        position = {name: i for i, name in enumerate(names)}
        for value in distinct:
            if value in position:
                continue
            if not _is_integer(value):
                raise ValueError(f"{where}: label {value!r} is not among the {len(names)} classes")
            if not 0 <= int(value) < len(names):
                raise ValueError(
                    f"{where}: label {value} is out of range 0..{len(names) - 1} "
                    f"(classes.txt names {len(names)} classes)"
                )
            position[value] = int(value)
    else:
        if all(map(_is_integer, distinct)):
            distinct.sort(key=int)
            if distinct and int(distinct[0]) < 0:
                raise ValueError(f"{where}: label {distinct[0]} is out of range: labels start at 0")
        position = {name: i for i, name in enumerate(distinct)}
        names = tuple(distinct)
    labels = np.fromiter((position[value] for value in values), np.int64, len(values))
    return labels, names


def match_classes(
    listing: Listing, classes: tuple[str, ...]
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """The labels of a listing as positions in `classes`, and the class names not found there.

    Whole-number labels are taken as positions where the names in `classes` are words. Images of
    an unknown class get the label -1.
    """
    position = {name: i for i, name in enumerate(classes)}
    numbers = all(map(_is_integer, listing.classes)) and not any(map(_is_integer, classes))
    table = np.full(len(listing.classes) + 1, -1, np.int64)  # the last row keeps -1 at -1
    unknown = []
    for i, name in enumerate(listing.classes):
        table[i] = position.get(name, -1)
        if numbers and 0 <= int(name) < len(classes):
            table[i] = int(name)
        if table[i] < 0:
            unknown.append(name)
    return table[listing.source.labels], tuple(unknown)


def _is_integer(text: str) -> bool:
    return text.removeprefix("-").isdecimal()
