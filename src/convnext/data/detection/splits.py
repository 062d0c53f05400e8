"""From `DetectionDataConfig.path` to train, validation and test sources of the same classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from convnext.data.config import DetectionDataConfig
from convnext.data.detection.collect import Annotated
from convnext.data.detection.layout import find_readers
from convnext.data.detection.source import DetectionSource
from convnext.data.splits import Finding, Splits, divide

Split = Literal["auto", "train", "val", "test", "all"]
_FORMS = (
    "COCO (annotations/instances_train.json and the images in train/, or a .json file), Pascal VOC "
    "(Annotations/*.xml and JPEGImages/) or YOLO (data.yaml, or images/ and labels/)"
)


def open_detection(config: DetectionDataConfig) -> Splits[DetectionSource]:
    """Open train, validation and test as the data define them, or as a seeded split by image.

    A missing validation split is the share `val_fraction` of the training images; the same for a
    test split where the data bring no split at all.

    Raises:
        ValueError: naming the file and the entry, if the data are missing or contradict themselves.
        OSError: if they may not be read.
    """
    parts = read_parts(config)
    problems = detection_problems(parts)
    if problems:
        raise ValueError(_message(problems))
    base = parts.get("train", parts.get("all"))
    if base is None:
        raise ValueError(f"{config.path}: no training images; found only: {', '.join(parts)}")
    sources = {
        name: _like(part, base.classes, base.source.category_ids, config.path)
        for name, part in parts.items()
    }
    if not all(source.has_masks for source in sources.values()):
        sources = {name: source.without_masks() for name, source in sources.items()}
    splits = divide(sources, base.classes, config)
    if not splits.train.num_objects(trains=True).any():
        raise ValueError(f"{config.path}: no object in the training images that can be trained on")
    return splits


def open_detection_for_evaluation(
    config: DetectionDataConfig, split: Split = "auto", classes: Sequence[str] | None = None
) -> tuple[DetectionSource, tuple[str, ...], str]:
    """One source to measure a detector on.

    "auto" is the validation split if the data bring one, else their test split, else everything
    (of COCO, and of most sets like it, the test split comes without annotations); no image is held
    out here. With `classes` (those of the model) labels number that list.

    Returns:
        The source, its classes, and the name of the split it is.

    Raises:
        ValueError: if there is no such split, or the data have classes the model does not know.
    """
    parts = read_parts(config)
    if split == "auto":
        split = next(name for name in ("val", "test", "all", "train") if name in parts)
    if split not in parts:
        raise ValueError(f"{config.path}: no split {split!r}; found: {', '.join(parts)}")
    part = parts[split]
    if part.errors:
        raise ValueError(_message(part.errors))
    if classes is None or tuple(classes) == part.classes:
        return part.source, part.classes, split
    known = dict(zip(part.classes, part.source.category_ids, strict=True))
    ids = tuple(known.get(name, -1) for name in classes)
    # The ids of the file stay where they say the same as the order of the model's classes.
    if min(ids) < 0 or list(ids) != sorted(ids):
        ids = tuple(range(1, len(classes) + 1))
    return _like(part, tuple(classes), ids, config.path), tuple(classes), split


def is_detection_set(path: str) -> bool:
    """Whether there are boxes at a path: it has the form of COCO, Pascal VOC or YOLO data.

    What has the form but contradicts itself is one; `open_detection` says what is wrong.
    """
    if not path or path.startswith("hf:"):
        return False
    try:
        place = Path(path).expanduser()
        return place.exists() and bool(find_readers(place, masks=False))
    except ValueError:
        return True
    except (OSError, RuntimeError):  # the latter of a ~user that is unknown
        return False


def read_parts(config: DetectionDataConfig) -> dict[str, Annotated]:
    """What is at a path, by split: {"all": ...}, or some of "train", "val" and "test".

    Raises:
        ValueError: if there is nothing at the path, or nothing that is understood.
        OSError: if it may not be read.
    """
    if not config.path:
        raise ValueError(f"no data given; name a folder of images with boxes in one of {_FORMS}")
    path = Path(config.path).expanduser()
    if not path.exists():
        raise ValueError(f"{config.path}: no such file or folder")
    readers = find_readers(path, masks=config.masks)
    if not readers:
        raise ValueError(f"{config.path}: no boxes found; looked for {_FORMS}")
    return {name: read() for name, read in readers.items()}


def detection_problems(parts: dict[str, Annotated]) -> list[Finding]:
    """What makes training on the parts impossible: broken entries, classes that do not fit."""
    problems = [finding for part in parts.values() for finding in part.errors]
    base = parts.get("train", parts.get("all"))
    if base is not None:
        for name, part in parts.items():
            if unknown := _unknown(part, base.classes):
                text = (
                    f"the {name} split has objects of classes that the training split lacks: "
                    f"{_some(unknown)}; training has {_some(base.classes)}"
                )
                problems.append(Finding("unknown_class", text))
    return problems


def _like(
    part: Annotated, classes: tuple[str, ...], ids: tuple[int, ...], path: str
) -> DetectionSource:
    """The source of a part with labels that number `classes`."""
    if part.classes == classes and part.source.category_ids == ids:
        return part.source
    if unknown := _unknown(part, classes):
        raise ValueError(
            f"{path}: {_some(unknown)} not among the {len(classes)} classes of the model "
            f"({_some(classes)}); rename them in the data, or use the data's own model"
        )
    place = {name: i for i, name in enumerate(classes)}
    labels = np.array([place.get(name, -1) for name in part.classes], np.int64)
    return part.source.renumbered(labels, ids)


def _unknown(part: Annotated, classes: Sequence[str]) -> tuple[str, ...]:
    """The classes of a part that have objects and are not among some classes."""
    table = part.source.table
    counts = np.bincount(table.labels, minlength=len(part.classes))
    pairs = zip(part.classes, counts.tolist(), strict=True)
    return tuple(name for name, count in pairs if count and name not in classes)


def _message(problems: Sequence[Finding]) -> str:
    first = problems[0]
    text = first.message + (f", the first: {first.files[0]}" if first.files else "")
    more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
    return f"{text}{more}; `convnext doctor` lists them"


def _some(names: Sequence[str], limit: int = 8) -> str:
    shown = ", ".join(repr(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
