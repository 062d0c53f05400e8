"""A check-up of a segmentation set: files, masks and classes."""

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import NamedTuple

import numpy as np

from convnext.data.config import SegmentationDataConfig
from convnext.data.doctor import (
    DoctorReport,
    duplicates,
    finding,
    formats,
    near_duplicates,
    similar_names,
    unreadable,
)
from convnext.data.scan import Record, each
from convnext.data.scan import scan as scan_source
from convnext.data.segmentation.coding import MaskError
from convnext.data.segmentation.doubts import find_doubt
from convnext.data.segmentation.source import SegmentationSource
from convnext.data.segmentation.splits import Parts, read_parts
from convnext.data.segmentation.survey import class_pixels
from convnext.data.splits import Finding

_RARE = 0.001  # share of the pixels
_MANY = 100  # classes that nobody has named
_RANGE = 4.0  # largest to smallest image
_MASKS = {
    "missing_mask": "{n} images have no mask",
    "unreadable_mask": "{n} masks cannot be read",
    "size_mismatch": "{n} masks are of another size than their image",
    "unknown_value": "{n} masks hold values outside the classes",
}

Sources = Mapping[str, SegmentationSource]


class Mask(NamedTuple):
    """What the check-up learnt of one mask: what is wrong with it, or its pixels by class."""

    kind: str
    error: str
    pixels: tuple[int, ...] = ()
    turned: bool = False  # the image by its EXIF data, but not the mask


def scan_segmentation(config: SegmentationDataConfig, workers: int = -1) -> DoctorReport:
    """Read every image and mask of a segmentation set and report what is wrong with it.

    Errors: data that cannot be opened, images and masks that are missing or unreadable, masks of
    another size than their image or with values outside the classes, fewer than two classes to
    train on, value 0 left out of a set that only looks like ADE20K, the same file in two splits.
    Warnings: masks without an image, wholly ignored masks, images that their EXIF data turn while
    their masks say nothing of it, classes that never occur or hardly do, many unnamed classes,
    masks stored as JPEG, very different sizes, near duplicates.

    Raises:
        OSError: if a folder may not be read.
    """
    try:
        parts = read_parts(config)
    except ValueError as error:
        return DoctorReport(config.path, errors=[Finding("cannot_open", str(error))])
    report = DoctorReport(config.path, classes=parts.classes)
    sources = parts.sources
    records: dict[str, list[Record]] = {}
    masks: dict[str, list[Mask]] = {}
    totals: dict[str, tuple[int, ...]] = {}
    for name, source in sources.items():
        records[name] = list(scan_source(source, label=f"reading {name} images", workers=workers))
        masks[name] = list(each(_describe, source, label=f"reading {name} masks", workers=workers))
        report.counts[f"{name} images"] = len(source)
        totals[name] = _total(masks[name], parts)
        report.class_counts[name] = totals[name][:-1]
    report.errors.extend(unreadable(records))
    report.errors.extend(_unusable(records, masks))
    train = "train" if "train" in sources else "all"
    if train in sources and (doubt := find_doubt(sources[train], totals[train])) is not None:
        report.errors.append(doubt)
    duplicates(sources, records, report)
    report.warnings.extend(near_duplicates(sources, records))
    report.warnings.extend(_lone(parts))
    report.warnings.extend(_hollow(sources, masks))
    report.warnings.extend(_turned(sources, masks))
    report.warnings.extend(_classes(report, train))
    report.warnings.extend(_many(sources))
    report.warnings.extend(similar_names(parts.classes))
    report.warnings.extend(_lossy(sources))
    report.warnings.extend(_sizes(records, report))
    report.warnings.extend(formats(sources, records))
    return report.counted()


def _describe(source: SegmentationSource, i: int) -> Mask:
    try:
        pixels = class_pixels(source.mask(i), len(source.classes))
        image, mask = source.turns(i)
    except MaskError as error:
        return Mask(error.kind, str(error))
    except (OSError, ValueError):  # of the image, which is reported by itself
        return Mask("", "the image cannot be read")
    return Mask("", "", tuple(pixels.tolist()), turned=image != mask)


def _total(masks: list[Mask], parts: Parts) -> tuple[int, ...]:
    total = np.zeros(len(parts.classes) + 1, np.int64)
    for mask in masks:
        if mask.pixels:
            total += mask.pixels
    return tuple(total.tolist())


def _unusable(
    records: Mapping[str, list[Record]], masks: Mapping[str, list[Mask]]
) -> Iterator[Finding]:
    """Masks that cannot be used, of images that can."""
    for kind, text in _MASKS.items():
        wrong = [
            mask.error
            for name, part in masks.items()
            for mask, record in zip(part, records[name], strict=True)
            if mask.kind == kind and not record.error
        ]
        if wrong:
            yield finding(kind, text, wrong)


def _lone(parts: Parts) -> Iterator[Finding]:
    if parts.lone:
        yield finding("lone_mask", "{n} masks have no image", parts.lone)


def _hollow(sources: Sources, masks: Mapping[str, list[Mask]]) -> Iterator[Finding]:
    hollow = [
        sources[name].mask_name(i)
        for name, part in masks.items()
        for i, mask in enumerate(part)
        if mask.pixels and not any(mask.pixels[:-1])
    ]
    if hollow:
        text = "{n} masks are wholly ignored; their images do not train"
        yield finding("ignored_mask", text, hollow)


def _turned(sources: Sources, masks: Mapping[str, list[Mask]]) -> Iterator[Finding]:
    """Pairs of which only one is turned: of the same size, so that nothing else would tell."""
    turned = [
        sources[name].name(i)
        for name, part in masks.items()
        for i, mask in enumerate(part)
        if mask.turned
    ]
    if turned:
        text = (
            "{n} images are turned upright as their EXIF data say, and their masks are not: see "
            "whether the masks belong to the upright pictures; if not, remove the turn from the "
            "images"
        )
        yield finding("turned", text, turned)


def _classes(report: DoctorReport, train: str) -> Iterator[Finding]:
    counts = dict(zip(report.classes, report.class_counts.get(train, ()), strict=False))
    total = sum(counts.values())
    absent = [name for name, count in counts.items() if not count]
    if absent:
        yield finding("empty_class", "{n} classes have no pixel to train on", absent)
    rare = [
        f"{name} ({100 * count / total:.3f} %)"
        for name, count in counts.items()
        if 0 < count < _RARE * total
    ]
    if rare:
        text = f"{{n}} classes have less than {100 * _RARE:g} % of the training pixels"
        yield finding("rare_class", text, rare)
    for split in ("val", "test"):
        measured = zip(report.classes, report.class_counts.get(split, ()), strict=False)
        if missing := [name for name, count in measured if not count and counts[name]]:
            text = f"{{n}} classes have no pixel in the {split} split"
            yield finding("class_not_measured", text, missing)


def _many(sources: Sources) -> Iterator[Finding]:
    coding = next(iter(sources.values())).coding
    if len(coding.classes) > _MANY and coding.where == "the training masks":
        text = (
            f"{len(coding.classes)} values in the masks, taken for as many classes: if they number "
            "objects, set masks = instances"
        )
        yield Finding("many_values", text)


def _lossy(sources: Sources) -> Iterator[Finding]:
    lossy = [
        name
        for source in sources.values()
        for name in map(source.mask_name, range(len(source)))
        if PurePath(name).suffix.lower() in (".jpg", ".jpeg", ".webp")
    ]
    if lossy:
        yield finding("lossy_mask", "{n} masks are of a format that changes values", lossy)


def _sizes(records: Mapping[str, list[Record]], report: DoctorReport) -> Iterator[Finding]:
    good = [record for part in records.values() for record in part if not record.error]
    if not good:
        return
    sides = [(min(r.width, r.height), max(r.width, r.height)) for r in good]
    report.counts["shortest side"] = min(short for short, _ in sides)
    report.counts["longest side"] = max(long for _, long in sides)
    areas = np.sqrt([record.width * record.height for record in good])
    if areas.max() >= _RANGE * areas.min():
        small, large = good[int(areas.argmin())], good[int(areas.argmax())]
        text = (
            f"the images are of very different sizes, from {small.width}x{small.height} to "
            f"{large.width}x{large.height} pixels; all are brought to min_size (0: none is)"
        )
        yield Finding("size_range", text)
