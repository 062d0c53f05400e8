"""Images without labels: any folder of images, at any depth, or whatever else holds images."""

from pathlib import Path

import numpy as np

from convnext.data.config import DataConfig
from convnext.data.decode import is_image_name
from convnext.data.folders import subfolders, walk
from convnext.data.listing import split_of
from convnext.data.source import FileSource, Source
from convnext.data.splits import Splits, divide, find_parts
from convnext.data.tables import table_files

__all__ = ["open_images"]

ONE_CLASS = ("image",)


def open_images(config: DataConfig) -> Splits:
    """Open images for training without labels; labels that there are go unread.

    A folder is searched with its subfolders. Folders `train` and `val` (and `test`) in it are those
    splits; else the share `val_fraction` is held out. Tables, tar shards, `hf:NAME` and `elpv` are
    read as for classification.

    Raises:
        ValueError: There is nothing at the path, or no image in it.
        OSError: It may not be read.
    """
    path = Path(config.path).expanduser()
    if config.path and path.is_dir() and not table_files(path) and not _has_shards(path):
        sources = _folders(path)
    else:
        sources = {name: listing.source for name, listing in find_parts(config).items()}
    if "train" not in sources and "all" not in sources:
        raise ValueError(f"{config.path}: no training images; found only: {', '.join(sources)}")
    zeros = {n: s.relabelled(np.zeros(len(s), np.int64)) for n, s in sources.items()}
    return divide(zeros, ONE_CLASS, config)


def _has_shards(path: Path) -> bool:
    return any(path.glob("*.tar")) or any(path.glob("*/*.tar"))


def _folders(path: Path) -> dict[str, Source]:
    named = {split_of(child.name): child for child in subfolders(path)}
    parts = {split: child for split, child in named.items() if split is not None}
    if "train" not in parts:
        return {"all": _images(path)}
    return {split: _images(child) for split, child in parts.items()}


def _images(folder: Path) -> FileSource:
    root = str(folder)
    names = sorted(n[len(root) + 1 :] for n in filter(is_image_name, walk(root)))
    if not names:
        raise ValueError(f"{folder}: no images found in it (looked for .jpg, .png and others)")
    return FileSource(root, names, np.zeros(len(names), np.int64))
