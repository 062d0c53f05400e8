"""From `SegmentationDataConfig.path` to train, validation and test sources of the same classes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from convnext.data.cache import cache_dir
from convnext.data.config import SegmentationDataConfig
from convnext.data.segmentation.coding import (
    OBJECTS,
    Coding,
    file_coding,
    named_coding,
)
from convnext.data.segmentation.layout import (
    Layout,
    find_layout,
    has_mask_folder,
    looks_like_masks,
)
from convnext.data.segmentation.nuclei3d import write_nuclei
from convnext.data.segmentation.source import SegmentationSource
from convnext.data.segmentation.survey import training_values
from convnext.data.splits import Splits, divide

Split = Literal["auto", "train", "val", "test", "all"]
NAPARI = "napari"  # the path that means the package
_FORMS = (
    "images/ and masks/ (or labels/, annotations/), with or without train/ and val/ in them or "
    "around them, train/ and trainannot/, or the form of ADE20K, Cityscapes or Pascal VOC"
)
_SHOWN = 8


@dataclass(frozen=True)
class Parts:
    """A set as it is found.

    Attributes:
        sources: {"all": ...}, or some of "train", "val" and "test".
        classes: of all of them.
        lone: masks without an image, as paths from the root.
    """

    sources: dict[str, SegmentationSource]
    classes: tuple[str, ...]
    lone: tuple[str, ...] = ()


def open_segmentation(config: SegmentationDataConfig) -> Splits[SegmentationSource]:
    """Open train, validation and test as the data define them, or as a seeded split by image.

    The classes are those of a file `classes.txt` (or `classes.json`, `labels.txt`, `codes.txt`,
    `labelmap.txt`), where line i names value i and names like void are ignored; else those of
    ADE20K, Cityscapes or Pascal VOC where the set has that form; else the values that occur in the
    training masks. A missing validation split is the share `val_fraction` of the training images;
    the same for a test split where the data bring no split at all. Splits without masks are left
    out. Whether each mask can be used, `check_images` finds out.

    Raises:
        ValueError: naming the file or folder, if data are missing or contradict themselves.
        OSError: if they may not be read.
    """
    parts = read_parts(config)
    if not {"train", "all"} & parts.sources.keys():
        raise ValueError(
            f"{config.path}: no training images with masks; found only: {', '.join(parts.sources)}"
        )
    return divide(parts.sources, parts.classes, config)


def open_segmentation_for_evaluation(
    config: SegmentationDataConfig, split: Split = "auto", classes: Sequence[str] | None = None
) -> tuple[SegmentationSource, tuple[str, ...], str]:
    """One source to measure a network on.

    "auto" is the validation split if the data bring one, else their test split, else everything;
    no image is held out here. With `classes` (those of the model) masks number that list: by name
    where the data name their classes, else by value.

    Returns:
        The source, its classes, and the name of the split it is.

    Raises:
        ValueError: if there is no such split, the data have classes the model does not know, or
            images have no mask.
    """
    parts = read_parts(config, classes)
    if split == "auto":
        split = next(name for name in ("val", "test", "all", "train") if name in parts.sources)
    if split not in parts.sources:
        raise ValueError(f"{config.path}: no split {split!r}; found: {', '.join(parts.sources)}")
    source = parts.sources[split]
    bare = [i for i in range(len(source)) if not source.mask_name(i)]
    if bare and config.on_bad_image == "stop":
        raise ValueError(
            f"{config.path}: {len(bare)} images of the {split} split have no mask, the first: "
            f"{source.name(bare[0])}; add them, or leave the images out with on_bad_image = skip"
        )
    if bare:
        source = source.subset(np.setdiff1d(np.arange(len(source)), bare))
    return source, parts.classes, split


def is_segmentation_set(path: str) -> bool:
    """Whether there are images with masks at a path, by names and by how the masks look.

    What contradicts itself is one if the files of a folder of masks look like masks;
    `open_segmentation` says what is wrong.
    """
    if path == NAPARI:
        return True
    if not path or path.startswith("hf:"):
        return False
    try:
        place = Path(path).expanduser()
        try:
            layout = find_layout(place)
        except ValueError:
            return has_mask_folder(place)
        return layout is not None and looks_like_masks(layout)
    except (OSError, RuntimeError):  # the latter of a ~user that is unknown
        return False


def read_parts(config: SegmentationDataConfig, classes: Sequence[str] | None = None) -> Parts:
    """What is at a path, with masks that number `classes` where they are given.

    Raises:
        ValueError: if there is nothing at the path, or nothing that is understood.
        OSError: if it may not be read.
    """
    if not config.path:
        raise ValueError(f"no data given; name a folder of images with masks: {_FORMS}")
    nuclei = config.path == NAPARI
    path = write_nuclei(cache_dir() / NAPARI) if nuclei else Path(config.path).expanduser()
    if not path.exists():
        raise ValueError(f"{config.path}: no such file or folder")
    layout = find_layout(path)
    if layout is None:
        raise ValueError(f"{config.path}: no images with masks found; looked for {_FORMS}")
    coding = _coding(layout, config, classes)
    if classes is not None and tuple(classes) != coding.classes:
        if unknown := [name for name in coding.classes if name not in classes]:
            raise ValueError(
                f"{config.path}: {_some(unknown)} not among the {len(classes)} classes of the "
                f"model ({_some(classes)}); rename them in the data (void is ignored), or use the "
                "data's own model"
            )
        coding = coding.renumbered(classes)
    sources = _sources(layout, coding)
    if layout.dummies and "test" in sources and (sources["test"].mask(0) < 0).all():
        del sources["test"]
    lone = tuple(name for part in layout.parts.values() for name in part.lone)
    return Parts(sources, coding.classes, tuple(dict.fromkeys(lone)))


def _sources(layout: Layout, coding: Coding) -> dict[str, SegmentationSource]:
    root = str(layout.root)
    return {
        split: SegmentationSource(root, part.images, part.masks, coding)
        for split, part in layout.parts.items()
    }


def _coding(
    layout: Layout, config: SegmentationDataConfig, classes: Sequence[str] | None
) -> Coding:
    """What says what the values of masks mean."""
    if config.masks == "instances":
        names = tuple(classes) if classes is not None and len(classes) == 2 else OBJECTS
        return Coding(names, instances=True, where="masks = instances")
    reduce = {"auto": layout.reduce, "yes": True, "no": False}[config.reduce_zero_label]
    assumed = reduce and config.reduce_zero_label == "auto"
    if layout.listed is not None:
        if assumed and layout.listed.settles_zero:
            assumed = reduce = False
        return replace(file_coding(layout.listed, config, reduce=reduce), assumed=assumed)
    if layout.standard is not None:
        return replace(layout.standard(config, reduce), assumed=assumed)
    if classes is not None:
        numbers = all(name.isdecimal() for name in classes)
        values = [int(n) for n in classes] if numbers else range(reduce, len(classes) + reduce)
        return named_coding(classes, values, config, "the model", reduce=reduce)
    return _occurring(layout, config, reduce)


def _occurring(layout: Layout, config: SegmentationDataConfig, reduce: bool) -> Coding:
    """The values in the training masks as classes."""
    plain = Coding(OBJECTS, where="the training masks")
    sources = _sources(layout, plain)
    base = sources.get("train", sources.get("all"))
    if base is None:
        raise ValueError(
            f"{config.path}: nothing says which classes there are; name them in "
            f"{layout.root / 'classes.txt'}, one a line"
        )
    found = training_values(base)
    if not found:
        base.raw_mask(0)  # says what is wrong with it
    ignored = set(config.ignore_values) | ({0} if reduce else set())
    values = [value for value in found if value not in ignored]
    if len(values) < 2:
        raise ValueError(
            f"{config.path}: the training masks hold {_numbers(found)} and of these "
            f"{_numbers(sorted(ignored & set(found)))} count for nothing; segmentation needs at "
            "least two classes. If an ignored value is a class, set ignore_values = () (or "
            "reduce_zero_label = no)"
        )
    names = [str(value) for value in values]
    return named_coding(names, values, config, "the training masks", reduce=reduce)


def _numbers(values: Sequence[int]) -> str:
    shown = ", ".join(map(str, values[:_SHOWN]))
    more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    return f"the value{'s' if len(values) > 1 else ''} {shown}{more}" if values else "none"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
