"""Reading COCO files: images, boxes, masks, crowds."""

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from convnext.data.detection.collect import Annotated, Box, Collector
from convnext.data.detection.header import header_size
from convnext.data.scan import track

_SAMPLE = 20
_MANY = 30_000  # annotations; reading more takes seconds


def read_coco(path: Path, folders: list[Path], *, masks: bool) -> Annotated:
    """One COCO file as a source; labels follow the category ids in ascending order.

    Args:
        path: the `.json` file.
        folders: where its images may lie; the first that holds some of them is taken.
        masks: read masks.

    Raises:
        ValueError: naming the file, if it is no COCO file, or no folder holds its images.
        OSError: if it cannot be read.

    Source: Lin et al. 2014, https://cocodataset.org/#format-data.
    """
    content = load_coco(path)
    names, category_ids, label_of = _categories(path, content)
    root, short = _root(path, content["images"], folders)
    collector = Collector(str(path), str(root), masks=masks, keep_unfit=True)
    rows = _add_images(path, root, short, content["images"], collector)
    for i, entry in _shown(path, content):
        _add_annotation(path, i, entry, rows, label_of, collector)
    return collector.finish(category_ids, names)


def load_coco(path: Path) -> dict[str, Any]:
    """The content of a COCO file of objects.

    Raises:
        ValueError: naming the file, if it is no JSON, or lacks images, annotations or categories.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: no JSON file ({error})") from error
    except RecursionError as error:
        raise ValueError(f"{path}: no COCO file (nested too deeply)") from error
    keys = ("images", "annotations", "categories")
    missing = [k for k in keys if not isinstance(content, dict) or k not in content]
    if missing:
        raise ValueError(f"{path}: no COCO file of objects, it lacks the lists {missing}")
    for key in keys:
        if not isinstance(content[key], list):
            raise ValueError(f"{path}: {key!r} is no list")
    if not content["images"]:
        raise ValueError(f"{path}: its list of images is empty")
    if not content["categories"]:
        raise ValueError(f"{path}: its list of categories is empty")
    return content


def _categories(
    path: Path, content: Mapping[str, Any]
) -> tuple[tuple[str, ...], tuple[int, ...], dict[int, int]]:
    """Names and ids in ascending order of the ids, and the label of each id."""
    names: dict[int, str] = {}
    for i, entry in _entries(path, content, "categories"):
        number, name = _whole(entry.get("id")), entry.get("name")
        if number is None or not isinstance(name, str):
            raise ValueError(f"{path}: categories[{i}] needs a whole number 'id' and a 'name'")
        if number in names:
            raise ValueError(f"{path}: two categories have the id {number}")
        if name in names.values():
            raise ValueError(f"{path}: two categories have the name {name!r}")
        names[number] = name
    ids = tuple(sorted(names))
    return tuple(names[k] for k in ids), ids, {number: i for i, number in enumerate(ids)}


def _add_images(
    path: Path, root: Path, short: bool, images: list[Any], collector: Collector
) -> dict[int, int]:
    """Add all images; returns the row of each image id."""
    rows: dict[int, int] = {}
    for i, entry in _entries(path, {"images": images}, "images"):
        number, name = _whole(entry.get("id")), entry.get("file_name")
        if number is None or not isinstance(name, str) or not name:
            raise ValueError(f"{path}: images[{i}] needs a whole number 'id' and a 'file_name'")
        if number in rows:
            collector.note("duplicate_image", f"{name}: id {number}")
            continue
        name = _file_name(name, short)
        height, width = _whole(entry.get("height")), _whole(entry.get("width"))
        if not height or not width or min(height, width) < 0:
            place = root / name
            height, width = header_size(place) if place.is_file() else (1, 1)
        rows[number] = collector.add_image(name, height, width, number)
    return rows


def _add_annotation(
    path: Path,
    i: int,
    entry: Mapping[str, Any],
    rows: Mapping[int, int],
    label_of: Mapping[int, int],
    collector: Collector,
) -> None:
    number = _whole(entry.get("id")) or 0
    name = f"annotations[{i}] (id {entry.get('id')})"
    row, label = rows.get(_id(entry, "image_id")), label_of.get(_id(entry, "category_id"))
    if row is None:
        collector.note("unknown_image", f"{name}: image_id {entry.get('image_id')}")
        return
    if label is None:
        collector.note("unknown_category", f"{name}: category_id {entry.get('category_id')}")
        return
    box = entry.get("bbox")
    try:
        assert isinstance(box, list)
        x, y, w, h = map(float, box)
        area = float(entry.get("area", w * h))
    except (AssertionError, TypeError, ValueError):
        collector.note("broken_box", f"{name}: bbox {box!r:.60}")
        return
    crowd = bool(entry.get("iscrowd", 0))
    mask = entry.get("segmentation")
    collector.add_object(row, Box(label, (x, y, w, h), area, crowd, mask, number), name)


def _root(path: Path, images: list[Any], folders: list[Path]) -> tuple[Path, bool]:
    """The folder that holds most of some images, and whether their folders are to be dropped."""
    names = [e["file_name"] for e in images[:: max(1, len(images) // _SAMPLE)] if _named(e)]
    best, most = (folders[0], False), 0
    for short in (False, True):
        for folder in folders:
            found = sum((folder / _file_name(name, short)).is_file() for name in names)
            if found > most:
                best, most = (folder, short), found
    if names and not most:
        searched = ", ".join(str(folder) for folder in folders)
        raise ValueError(
            f"{path}: none of its images is there, such as {names[0]!r}; looked in {searched}"
        )
    return best


def _file_name(name: str, short: bool) -> str:
    name = name.replace("\\", "/")
    return PurePosixPath(name).name if short else name


def _named(entry: object) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("file_name"), str)


def _entries(
    path: Path, content: Mapping[str, Any], key: str
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for i, entry in enumerate(content[key]):
        if not isinstance(entry, dict):
            raise ValueError(f"{path}: {key}[{i}] is {entry!r:.40}, not an object with fields")
        yield i, entry


def _shown(path: Path, content: Mapping[str, Any]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The annotations, with a progress bar where there are many."""
    entries = _entries(path, content, "annotations")
    total = len(content["annotations"])
    if total < _MANY:
        yield from entries
        return
    pieces = iter(lambda: list(islice(entries, 1000)), [])
    for piece in track(pieces, total, f"reading {path.name}", unit="objects"):
        yield from piece


def _id(entry: Mapping[str, Any], key: str) -> int:
    number = _whole(entry.get(key))
    return -1 if number is None else number


def _whole(value: object) -> int | None:
    """Whole numbers, and those written as text or with a point."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.strip().removeprefix("-").isdecimal():
        return int(value)
    return None
