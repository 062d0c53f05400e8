"""Which mask belongs to which image: by the name of the file, and by the folder it is in."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from convnext.data.decode import is_image_name
from convnext.data.folders import walk
from convnext.data.listing import split_of

_WORDS = "mask|masks|label|labels|labelids|labeltrainids|gt|seg|segmentation|annot|annotation"
_OF_MASK = re.compile(rf"[-_. ]({_WORDS}|anno|semantic|target|l)$", re.IGNORECASE)
_OF_IMAGE = re.compile(r"[-_. ](image|img|rgb|sat|leftimg8bit)$", re.IGNORECASE)


@dataclass(frozen=True)
class Pairs:
    """Images of one split with their masks.

    Attributes:
        images: paths from the root of the set.
        masks: likewise, one for each image; "" where there is none.
        lone: masks without an image.
    """

    images: tuple[str, ...]
    masks: tuple[str, ...]
    lone: tuple[str, ...] = ()

    @property
    def found(self) -> int:
        """How many images have a mask."""
        return sum(map(bool, self.masks))


class File(NamedTuple):
    """A file of a set: path from its root, the split its folder means, and its name in there."""

    path: str
    split: str | None
    folder: str
    stem: str


def files_in(root: Path, folder: Path, split: str | None = None) -> list[File]:
    """Every image file below a folder, in order; a folder `train` and the like is a split.

    Args:
        root: where paths start.
        folder: `root` or below.
        split: that of all the files, where the folder's place says it.
    """
    found = []
    for name in filter(is_image_name, walk(str(folder))):
        inside = PurePosixPath(Path(name).relative_to(folder).as_posix())
        parts = list(inside.parent.parts)
        own = split
        if own is None and parts and (own := _split_of(parts[0])) is not None:
            del parts[0]
        path = Path(name).relative_to(root).as_posix()
        found.append(File(path, own, "/".join(parts), inside.stem))
    return sorted(found)


def pair(images: Iterable[File], masks: Iterable[File], where: Path) -> dict[str, Pairs]:
    """Images with their masks, by split: {"all": ...}, or some of "train", "val" and "test".

    A mask has the name of its image up to the ending, or that and `_mask`, `_label`, `_gt` and the
    like. The split is that of the image's folder, else of the mask's. A split without any mask is
    left out: test sets often come without.

    Raises:
        ValueError: if two masks claim one image, or two images one mask: they would be copies of
            each other, and one might train while the other is scored.
    """
    index = _Index(masks, where)
    parts: dict[str, list[tuple[str, str]]] = {}
    for image in images:
        mask = index.take(image)
        split = image.split or (mask.split if mask else None)
        parts.setdefault(split or "all", []).append((image.path, mask.path if mask else ""))
    if "all" in parts and len(parts) > 1:  # images in no split: to train on, if they can
        parts.setdefault("train", []).extend(parts.pop("all"))
    found = {}
    for split, pairs in parts.items():
        of_split = tuple(
            mask.path for mask in index.left.values() if (mask.split or split) == split
        )
        images_, masks_ = zip(*pairs, strict=True)
        found[split] = Pairs(images_, masks_, of_split)
    return {split: pairs for split, pairs in found.items() if pairs.found}


class _Index:
    """Masks by name, and which of them have found their image."""

    def __init__(self, masks: Iterable[File], where: Path) -> None:
        self._where = where
        self._owners: dict[str, str] = {}  # of masks: the images that they are of
        self._exact: dict[tuple[str, str], list[File]] = {}
        self._short: dict[tuple[str, str], list[File]] = {}
        self.left: dict[str, File] = {}
        for mask in masks:
            self.left[mask.path] = mask
            self._exact.setdefault((mask.folder, mask.stem), []).append(mask)
            self._short.setdefault((mask.folder, short_stem(mask.stem, _OF_MASK)), []).append(mask)

    def take(self, image: File) -> File | None:
        """The mask of an image, if there is one."""
        short = short_stem(image.stem, _OF_IMAGE)
        for table, stem in ((self._exact, image.stem), (self._short, image.stem)) + (
            ((self._exact, short), (self._short, short)) if short != image.stem else ()
        ):
            found = [m for m in table.get((image.folder, stem), ()) if _same_split(image, m)]
            if len(found) > 1:
                raise ValueError(
                    f"{self._where}: both {found[0].path} and {found[1].path} look like the mask "
                    f"of {image.path}; keep one"
                )
            if found:
                self._own(found[0], image)
                return found[0]
        return None

    def _own(self, mask: File, image: File) -> None:
        """Note whose a mask is; refuse a second owner."""
        owner = self._owners.setdefault(mask.path, image.path)
        if owner != image.path:
            raise ValueError(
                f"{self._where}: {mask.path} looks like the mask of both {owner} and {image.path}; "
                "keep one of the images, or give each a mask of its own name"
            )
        self.left.pop(mask.path, None)


def short_stem(stem: str, pattern: re.Pattern[str]) -> str:
    """A name without what says that it is one of a mask (or of an image)."""
    if is_image_name(stem):  # photograph.jpg.png
        stem = PurePosixPath(stem).stem
    return pattern.sub("", stem)


def _same_split(image: File, mask: File) -> bool:
    return image.split is None or mask.split is None or image.split == mask.split


def _split_of(name: str) -> str | None:
    return split_of(name.rstrip("0123456789"))
