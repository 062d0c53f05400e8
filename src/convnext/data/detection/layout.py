"""Telling COCO, Pascal VOC and YOLO data apart by looking, and finding their splits."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from convnext.data.detection.coco import read_coco
from convnext.data.detection.collect import Annotated
from convnext.data.detection.stored import read_stored
from convnext.data.detection.voc import find_voc, read_voc, split_lists
from convnext.data.detection.yolo import (
    class_names,
    find_yaml,
    folder_splits,
    read_yolo,
    yaml_splits,
)
from convnext.data.folders import subfolders
from convnext.data.listing import split_of

_WORD = re.compile(r"(?<![a-z])([a-z]+?)(?:\d{4})?(?![a-z0-9])")
_ROBOFLOW = "_annotations.coco.json"
# Files of the same folder that hold no objects.
_OTHER = ("captions", "person_keypoints", "panoptic", "stuff", "image_info")

Reader = Callable[[], Annotated]


def find_readers(path: Path, *, masks: bool) -> dict[str, Reader]:
    """How to read each split of the detection data at a path, nothing where there are none.

    Returns:
        {"all": ...}, or some of "train", "val" and "test".

    Raises:
        ValueError: if two files claim the same split.
    """
    if path.is_file():
        if path.suffix in (".yaml", ".yml"):
            return _described(path, masks)
        return {"all": _coco(path, path.parent, "", masks)} if path.suffix == ".json" else {}
    if files := coco_files(path):
        return {split: _coco(file, path, split, masks) for split, file in files.items()}
    if readers := _voc(path):
        return readers
    if (file := find_yaml(path)) is not None:
        return _described(file, masks)
    if splits := folder_splits(path):
        names = class_names(path)
        return {
            name: partial(read_yolo, places, names, masks=masks) for name, places in splits.items()
        }
    return {}


def _described(file: Path, masks: bool) -> dict[str, Reader]:
    splits, names = yaml_splits(file)
    return {name: partial(read_yolo, places, names, masks=masks) for name, places in splits.items()}


def _voc(folder: Path) -> dict[str, Reader]:
    """Pascal VOC: one folder of XML files with lists of the splits, or a folder for each split."""
    if (found := find_voc(folder)) is not None:
        lists = split_lists(folder)
        if not lists:
            return {"all": partial(read_voc, *found)}
        return {split: partial(read_voc, *found, file) for split, file in lists.items()}
    readers: dict[str, Reader] = {}
    for child in subfolders(folder):
        split, found = split_of(child.name), None
        if split is not None and (found := find_voc(child)) is not None:
            readers[split] = partial(read_voc, *found)
    return readers


def coco_files(folder: Path) -> dict[str, Path]:
    """The COCO files in a folder by split: in `annotations/`, in the folder, or in its splits.

    Raises:
        ValueError: if two files claim the same split.
    """
    for place in (folder / "annotations", folder):
        files = [file for file in sorted(place.glob("*.json")) if not file.name.startswith(".")]
        if official := [file for file in files if file.name.startswith("instances")]:
            return _by_split(official)
        if place != folder or any(file.name == _ROBOFLOW for file in files):
            files = [file for file in files if not file.name.startswith(_OTHER)]
            # Other programs leave their files there, too: lists of classes, settings.
            if files := [f for f in files if f.name == _ROBOFLOW or _looks_like_coco(f)]:
                return _by_split(files)
    nested = sorted(folder.glob(f"*/{_ROBOFLOW}"))
    named = {split: file for file in nested if (split := split_of(file.parent.name)) is not None}
    if named:
        return named
    files = [file for file in sorted(folder.glob("*.json")) if _looks_like_coco(file)]
    return _by_split(files) if files else {}


def split_in(name: str) -> str | None:
    """The split that a word of a file's name means: "instances_val2017" is "val"."""
    found = {split_of(word) for word in _WORD.findall(name.lower())} - {None}
    return found.pop() if len(found) == 1 else None


def _by_split(files: list[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in files:
        split = split_in(file.stem) or "all"
        if split in found:
            raise ValueError(
                f"{file.parent}: both {found[split].name} and {file.name} look like the "
                f"{'whole set' if split == 'all' else split + ' split'}; name the one to use"
            )
        found[split] = file
    if "all" in found and len(found) > 1:
        extra = found.pop("all")
        if "train" not in found:
            found["train"] = extra
    return found


def _coco(file: Path, folder: Path, split: str, masks: bool) -> Reader:
    def read() -> Annotated:
        folders = _image_folders(file, folder, split)
        return read_stored(file, masks, lambda: read_coco(file, folders, masks=masks))

    return read


def _image_folders(file: Path, folder: Path, split: str) -> list[Path]:
    """Where the images of a COCO file may lie, the likeliest first."""
    split = split or split_in(file.stem) or ""
    tops = list(dict.fromkeys([file.parent, folder, file.parent.parent]))
    found = []
    for top in tops:
        for place in (top, top / "images"):
            if place.is_dir():
                children = (c for c in sorted(place.iterdir()) if c.is_dir())
                found += [c for c in children if split and split_in(c.name) == split]
                found.append(place)
    return list(dict.fromkeys(found))


def _looks_like_coco(file: Path) -> bool:
    """Whether the parts of a COCO file of objects are named in it."""
    if not file.is_file():
        return False
    text = file.read_bytes()
    parts = (b"images", b"annotations", b"categories")
    return all(b'"%s"' % key in text for key in parts) and b'"segments_info"' not in text
