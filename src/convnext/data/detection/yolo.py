"""Reading YOLO data: one text file of boxes or polygons per image, in shares of its size."""

import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from convnext.data.decode import is_image_name
from convnext.data.detection.collect import Annotated, Box, Collector
from convnext.data.detection.header import header_size
from convnext.data.folders import subfolders, walk
from convnext.data.listing import read_class_names, split_of

_SLACK = 0.01  # coordinates may leave the image by rounding


def find_yaml(folder: Path) -> Path | None:
    """The `.yaml` file that describes a YOLO data set, if there is one in the folder."""
    for file in sorted(folder.iterdir()):
        if file.suffix not in (".yaml", ".yml"):
            continue
        try:
            if {"train", "names"} <= read_yaml(file).keys():
                return file
        except ValueError:  # other programs leave their files, too
            if file.stem in ("data", "dataset"):
                raise
    return None


def read_yaml(file: Path) -> dict[str, Any]:
    """The fields of a YAML file.

    Raises:
        ValueError: naming the file, if it is no YAML.
    """
    yaml = import_module("yaml")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{file}: no readable YAML ({reason})") from error
    return content if isinstance(content, dict) else {}


def yaml_splits(file: Path) -> tuple[dict[str, list[Path]], tuple[str, ...]]:
    """Where a YAML file says the images of each split are, and the names of the classes.

    Raises:
        ValueError: naming the file, if the images of training or validation are not there.
    """
    content = read_yaml(file)
    names = content["names"]
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            raise ValueError(f"{file}: the names are not numbered 0..{len(names) - 1}")
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise ValueError(f"{file}: 'names' is neither a list nor a mapping of numbers to names")
    splits: dict[str, list[Path]] = {}
    for key, value in content.items():
        split = split_of(str(key))
        if split is None or not value:
            continue
        values = value if isinstance(value, list) else [value]
        places = [_place(file, content, str(entry)) for entry in values]
        missing = [v for v, place in zip(values, places, strict=True) if place is None]
        if missing and split != "test":  # exported descriptions often name a test split at random
            raise ValueError(f"{file}: the {split} images {missing[0]!r} are not there")
        found = [place for place in places if place is not None]
        if found:
            splits[split] = found
    return splits, tuple(str(name) for name in names)


def folder_splits(folder: Path) -> dict[str, list[Path]]:
    """The folders of images of a YOLO data set without description, by split; {} if it is none.

    `images/train` beside `labels/train`, `train/images` beside `train/labels`, or `images` beside
    `labels`.
    """
    images, labels = folder / "images", folder / "labels"
    if images.is_dir() and _has_texts(labels):
        children = [child for child in sorted(images.iterdir()) if child.is_dir()]
        named = {split_of(child.name.rstrip("0123456789")): [child] for child in children}
        if found := {split: places for split, places in named.items() if split is not None}:
            return found
        return {"all": [images]}
    found = {}
    for child in subfolders(folder):
        split = split_of(child.name)
        if split and (child / "images").is_dir() and _has_texts(child / "labels"):
            found[split] = [child / "images"]
    return found


def _has_texts(folder: Path) -> bool:
    return any(folder.glob("*.txt")) or any(folder.glob("*/*.txt"))


def class_names(folder: Path) -> tuple[str, ...]:
    """The lines of `classes.txt` in the folder of a YOLO data set, or in its labels.

    Raises:
        ValueError: if there is no such file.
    """
    for place in (folder, folder / "labels", folder / "labels" / "train", folder / "train"):
        if names := read_class_names(place):
            return names
    raise ValueError(
        f"{folder}: the classes have no names; write them into {folder / 'classes.txt'}, one a line"
    )


def read_yolo(places: Sequence[Path], names: tuple[str, ...], *, masks: bool) -> Annotated:
    """The images of one split as a source; category ids are 1..K.

    Args:
        places: folders of images, and text files that list images.
        names: of the K classes.
        masks: read polygons as masks; else only the boxes around them.

    Raises:
        ValueError: naming the folder without images, or a file that is no image.
        OSError: if a file cannot be read.

    Source: https://docs.ultralytics.com/datasets/detect, "Ultralytics YOLO format".
    """
    images = [image for place in places for image in _images(place)]
    where = ", ".join(map(str, places))
    if not images:
        raise ValueError(f"{where}: no images found in it")
    collector = Collector(where, "", masks=masks, keep_unfit=False)
    for image in images:
        height, width = header_size(image) if image.is_file() else (1, 1)
        row = collector.add_image(str(image), height, width, len(collector) + 1)
        labels = label_file(image)
        if not labels.is_file():
            collector.note("no_label_file", str(image))
            continue
        for number, line in enumerate(labels.read_text("utf-8", "replace").splitlines(), 1):
            if line.strip():
                name = f"{labels}, line {number}"
                _add(collector, row, line, (height, width), names, name)
    return collector.finish(range(1, len(names) + 1), names)


def label_file(image: Path) -> Path:
    """The label file of an image: `labels` for the last folder `images`, ending `.txt`."""
    parts = list(image.parts[:-1])
    for i in reversed(range(len(parts))):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts, image.stem + ".txt")


def _add(
    collector: Collector,
    row: int,
    line: str,
    size: tuple[int, int],
    names: Sequence[str],
    name: str,
) -> None:
    try:
        first, *values = map(float, line.split())
    except ValueError:
        collector.note("broken_label", f"{name}: {line!r:.60} is no row of numbers")
        return
    if not first.is_integer() or not 0 <= first < len(names):
        text = f"{name}: class {line.split()[0]}, there are {len(names)} (0..{len(names) - 1})"
        collector.note("unknown_category", text)
        return
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        text = f"{name}: {1 + len(values)} numbers; a box has 5, a polygon 7, 9, 11, ..."
        collector.note("broken_label", text)
        return
    if not all(-_SLACK <= value <= 1 + _SLACK for value in values):
        text = f"{name}: coordinates are shares of the image's size, from 0 to 1"
        collector.note("broken_label", text)
        return
    height, width = size
    if len(values) == 4:
        x, y, w, h = values
        box = ((x - w / 2) * width, (y - h / 2) * height, w * width, h * height)
        collector.add_object(row, Box(int(first), box, box[2] * box[3]), name)
        return
    across = [value * width for value in values[::2]]
    down = [value * height for value in values[1::2]]
    box = (min(across), min(down), max(across) - min(across), max(down) - min(down))
    polygon = [value for point in zip(across, down, strict=True) for value in point]
    item = Box(int(first), box, _area(across, down), segmentation=[polygon])
    collector.add_object(row, item, name)


def _area(across: Sequence[float], down: Sequence[float]) -> float:
    """The area of a polygon, by the shoelace formula."""
    total = 0.0
    for i in range(len(across)):
        total += across[i - 1] * down[i] - across[i] * down[i - 1]
    return math.fabs(total) / 2


def _place(file: Path, content: Mapping[str, Any], value: str) -> Path | None:
    """A folder or list named in a description: below its `path`, beside it, or beside its parent.

    Exports write `../train/images` and mean the folder `train` beside the file.
    """
    base = Path(str(content.get("path") or ""))
    short = value
    while short.startswith("../"):
        short = short[3:]
    tops = [file.parent / base, base, file.parent]
    candidates = [top / entry for entry in dict.fromkeys((value, short)) for top in tops]
    return next((place for place in candidates if place.exists()), None)


def _images(place: Path) -> list[Path]:
    if place.is_file():
        lines = place.read_text(encoding="utf-8-sig").splitlines()
        names = [line.strip() for line in lines if line.strip()]
        return [place.parent / name for name in names]
    return [Path(name) for name in sorted(filter(is_image_name, walk(str(place))))]
