"""Folders of images: walking them, and class folders as a listing."""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from convnext.data.decode import is_image_name
from convnext.data.listing import Listing, split_of
from convnext.data.source import FileSource

# Directories are read in pieces of this many entries, each sorted: the memory stays bounded.
_ENTRIES = 100_000


def walk(folder: str, seen: set[tuple[int, int]] | None = None) -> Iterator[str]:
    """Every file below a folder, links followed, hidden names left out; endless loops cannot occur.

    Files of one directory come in order of their names (in pieces of 100,000 for larger ones), then
    its sub-directories in order. `seen` holds (device, inode) of the directories already entered.
    """
    seen = set() if seen is None else seen
    folders = [folder]
    while folders:
        current = folders.pop()
        status = os.stat(current)  # noqa: PTH116 - strings are kept throughout for speed
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        below: list[str] = []
        with os.scandir(current) as entries:
            while piece := list(islice(entries, _ENTRIES)):
                piece.sort(key=lambda entry: entry.name)
                for entry in piece:
                    if entry.name.startswith((".", "__MACOSX")):
                        continue
                    if entry.is_dir():
                        below.append(entry.path)
                    elif entry.is_file() or entry.is_symlink():
                        yield entry.path
        folders.extend(sorted(below, reverse=True))


def subfolders(folder: Path) -> list[Path]:
    """The visible sub-directories of a folder, sorted by name."""
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if e.is_dir() and not e.name.startswith((".", "__MACOSX"))]
    return [folder / name for name in sorted(names)]


def split_folders(folder: Path) -> dict[str, Path]:
    """The sub-directories that are splits by name ("train", "val", "test"), by split.

    A folder that only holds images is a class that happens to be called "train" or "test".

    Raises:
        ValueError: if two folders mean the same split.
    """
    found: dict[str, Path] = {}
    for child in subfolders(folder):
        split = split_of(child.name)
        if split is None or not (subfolders(child) or any(child.glob("*.tar"))):
            continue
        if split in found:
            raise ValueError(
                f"{folder}: both {found[split].name!r} and {child.name!r} look like the {split} "
                "split; keep one"
            )
        found[split] = child
    return found


def list_class_folders(folder: Path) -> Listing:
    """A folder of class folders; the classes are the folder names in sorted order.

    Raises:
        ValueError: if there is no class folder, or no image in any of them.
    """
    children = subfolders(folder)
    if not children:
        images = sum(is_image_name(entry.name) for entry in folder.iterdir())
        raise ValueError(
            f"{folder}: no class folders in it ({images} images lie directly in it); "
            f"expected {folder}/<class>/<image>"
        )
    root = str(folder)
    top = os.stat(folder)  # noqa: PTH116
    paths: list[str] = []
    counts: list[int] = []
    ignored = 0
    for child in children:
        files = [path[len(root) + 1 :] for path in walk(str(child), {(top.st_dev, top.st_ino)})]
        images_here = sorted(filter(is_image_name, files))
        ignored += len(files) - len(images_here)
        counts.append(len(images_here))
        paths.extend(images_here)
    if not paths:
        raise ValueError(
            f"{folder}: no images found in its {len(children)} folders "
            f"({', '.join(child.name for child in children[:5])}); looked for .jpg, .png and others"
        )
    names = tuple(os.fsencode(c.name).decode("utf-8", "backslashreplace") for c in children)
    labels = np.repeat(np.arange(len(children), dtype=np.int64), counts)
    empty = tuple(name for name, count in zip(names, counts, strict=True) if count == 0)
    return Listing(FileSource(root, paths, labels), names, empty, ignored)
