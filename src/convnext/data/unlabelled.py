"""Images without labels: any folder of images, at any depth, or whatever else holds images."""

from pathlib import Path

import numpy as np

from convnext.data.config import DataConfig
from convnext.data.decode import is_image_name
from convnext.data.folders import subfolders, walk
from convnext.data.listing import split_of
from convnext.data.shards import list_shards, shards_by_split
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
    if config.path and (path.suffix == ".tar" or (path.is_dir() and not table_files(path))):
        sources = _files(path)
    else:
        sources = {name: listing.source for name, listing in find_parts(config).items()}
    if "train" not in sources and "all" not in sources:
        raise ValueError(f"{config.path}: no training images; found only: {', '.join(sources)}")
    zeros = {n: s.relabelled(np.zeros(len(s), np.int64)) for n, s in sources.items()}
    return divide(zeros, ONE_CLASS, config)


def _files(path: Path) -> dict[str, Source]:
    """Image files or tar shards, by the split that folders or shard names say."""
    if path.suffix == ".tar" and path.is_file():
        return {"all": _shards([path])}
    if shards := sorted(path.glob("*.tar")):
        return {split: _shards(group) for split, group in shards_by_split(shards).items()}
    named = {split_of(child.name): child for child in subfolders(path)}
    if "train" not in named:
        return {"all": _images(path)}
    return {split: _images(child) for split, child in named.items() if split is not None}


def _shards(paths: list[Path]) -> Source:
    return list_shards(paths, labelled=False).source


def _images(folder: Path) -> Source:
    if shards := sorted(folder.glob("*.tar")):
        return _shards(shards)
    root = str(folder)
    names = sorted(n[len(root) + 1 :] for n in filter(is_image_name, walk(root)))
    if not names:
        raise ValueError(f"{folder}: no images found in it (looked for .jpg, .png and others)")
    return FileSource(root, names, np.zeros(len(names), np.int64))
