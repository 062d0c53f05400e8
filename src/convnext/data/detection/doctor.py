"""A check-up of a detection set: files, boxes, masks and classes."""

from collections.abc import Iterator, Mapping

import numpy as np
from pycocotools import mask as coco_mask

from convnext.data.config import DetectionDataConfig
from convnext.data.detection.collect import Annotated
from convnext.data.detection.header import header_size
from convnext.data.detection.source import DetectionSource, Objects
from convnext.data.detection.splits import detection_problems, read_parts
from convnext.data.doctor import (
    DoctorReport,
    duplicates,
    finding,
    formats,
    near_duplicates,
    similar_names,
    unreadable,
)
from convnext.data.pixels import fit_size
from convnext.data.scan import Record
from convnext.data.scan import scan as scan_source
from convnext.data.splits import Finding

_FEW_OBJECTS = 20
_IMBALANCE = 100.0
_TINY = 8.0  # pixels of the network's input: one cell of its finest anchors is 4 wide
_TINY_SHARE = 0.1
_MANY = 100  # detections an image that evaluation counts
_APART = 0.5

Sources = Mapping[str, DetectionSource]


def scan_detection(config: DetectionDataConfig, workers: int = -1) -> DoctorReport:
    """Read every image and annotation of a detection set and report what is wrong with it.

    Errors: data that cannot be opened, broken entries (categories, images, boxes, masks), missing
    and unreadable files, sizes that do not fit the annotation, nothing to train on, the same file
    in two splits. Warnings: boxes that cannot train or leave their image, the same box twice, masks
    that are empty or lie elsewhere than their box, classes without or with few objects, imbalance,
    images without objects, tiny objects, more objects than evaluation counts, near duplicates.

    Raises:
        OSError: if a folder may not be read.
    """
    try:
        parts = read_parts(config)
    except ValueError as error:
        return DoctorReport(config.path, errors=[Finding("cannot_open", str(error))])
    base = parts.get("train", parts.get("all")) or next(iter(parts.values()))
    errors = detection_problems(parts)
    warnings = [found for part in parts.values() for found in part.warnings]
    report = DoctorReport(config.path, errors, warnings, classes=base.classes)
    sources = {name: part.source for name, part in parts.items()}
    records: dict[str, list[Record]] = {}
    for name, source in sources.items():
        records[name] = list(scan_source(source, label=f"reading {name} images", workers=workers))
        report.counts[f"{name} images"] = len(source)
        report.counts[f"{name} objects"] = len(source.object_rows())
        report.class_counts[name] = _counts(parts[name], base.classes)
    report.errors.extend(_files(sources, records))
    if not base.source.num_objects(trains=True).any():
        report.errors.append(Finding("no_objects", "no object that can be trained on"))
    duplicates(sources, records, report)
    report.warnings.extend(_listed_twice(sources))
    report.warnings.extend(near_duplicates(sources, records))
    report.warnings.extend(_boxes(sources))
    report.warnings.extend(_images(sources))
    report.warnings.extend(_tiny(sources, config))
    report.warnings.extend(_balance(report, "train" if "train" in parts else "all"))
    report.warnings.extend(similar_names(base.classes))
    report.warnings.extend(formats(sources, records))
    return report.counted()


def _counts(part: Annotated, classes: tuple[str, ...]) -> tuple[int, ...]:
    """Objects fit for training of each class, by the classes of the training split."""
    own = part.source.class_counts(len(part.classes)).tolist()
    counts = dict(zip(part.classes, own, strict=True))
    return tuple(counts.get(name, 0) for name in classes)


def _files(sources: Sources, records: Mapping[str, list[Record]]) -> Iterator[Finding]:
    missing, sizes, there = [], [], {}
    for name, source in sources.items():
        stamps = source.stamps()
        assert stamps is not None, "files have sizes and times"
        gone = stamps[:, 0] < 0
        missing += [source.name(i) for i in np.flatnonzero(gone).tolist()]
        there[name] = [record for record, lost in zip(records[name], gone, strict=True) if not lost]
        for i, record in enumerate(records[name]):
            if record.error or (record.height, record.width) == source.size(i):
                continue
            if header_size(source.path(i), upright=False) != source.size(i):
                height, width = source.size(i)
                stated = f"annotated as {width}x{height}"
                sizes.append(f"{source.name(i)}: {record.width}x{record.height}, {stated}")
    if missing:
        yield finding("missing", "{n} images of the annotations are not there", missing)
    yield from unreadable(there)
    if sizes:
        text = "{n} images are of another size than their annotation says: boxes and masks are off"
        yield finding("size_mismatch", text, sizes)


def _listed_twice(sources: Sources) -> Iterator[Finding]:
    twice = []
    for source in sources.values():
        seen: set[str] = set()
        for i in range(len(source)):
            if source.key(i) in seen:
                twice.append(source.name(i))
            seen.add(source.key(i))
    if twice:
        yield finding("listed_twice", "{n} images are listed more than once", twice)


def _boxes(sources: Sources) -> Iterator[Finding]:
    same, empty, apart = [], [], []
    for source in sources.values():
        for i in range(len(source)):
            objects = source.objects(i)
            rows = np.column_stack([objects.labels, objects.boxes])[objects.trains]
            if extra := len(rows) - len(np.unique(rows, axis=0)):
                same.append(f"{source.name(i)}: {extra}")
            if objects.rles is None or not objects.trains.any():
                continue
            hollow, overlaps = _masks(objects, source.size(i))
            if hollow.any():
                empty.append(f"{source.name(i)}: {hollow.sum()}")
            if (overlaps[~hollow] < _APART).any():
                apart.append(f"{source.name(i)}: {(overlaps[~hollow] < _APART).sum()}")
    if same:
        text = "{n} images have the same box with the same class more than once"
        yield finding("duplicate_box", text, same)
    if empty:
        yield finding("empty_mask", "{n} images have masks without a pixel", empty)
    if apart:
        text = "{n} images have masks whose extent is another than that of their box"
        yield finding("mask_off_box", text, apart)


def _masks(objects: Objects, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Of the objects fit for training: is the mask empty, and how its extent overlaps the box."""
    assert objects.rles is not None, "checked by the caller"
    fit = np.flatnonzero(objects.trains)
    rles = [{"size": size, "counts": objects.rles[k]} for k in fit]
    x, y, w, h = coco_mask.toBbox(rles).T
    x1, y1, x2, y2 = objects.boxes[fit].T
    across = (np.minimum(x2, x + w) - np.maximum(x1, x)).clip(min=0)
    down = (np.minimum(y2, y + h) - np.maximum(y1, y)).clip(min=0)
    union = w * h + (x2 - x1) * (y2 - y1) - across * down
    return w * h == 0, across * down / union


def _images(sources: Sources) -> Iterator[Finding]:
    none, many = [], []
    for name, source in sources.items():
        counts = source.num_objects()
        none += (
            [source.name(i) for i in np.flatnonzero(counts == 0).tolist()] if name != "test" else []
        )
        many += [f"{source.name(i)}: {counts[i]}" for i in np.flatnonzero(counts > _MANY).tolist()]
    if none:
        text = "{n} images have no object; they are left out of training (negatives = True: kept)"
        yield finding("no_object", text, none)
    if many:
        text = (
            f"{{n}} images have more than {_MANY} objects; as many detections are counted at most"
        )
        yield finding("many_objects", text, many)


def _tiny(sources: Sources, config: DetectionDataConfig) -> Iterator[Finding]:
    tiny, total = 0, 0
    for source in sources.values():
        sides = source.box_sides()
        factors = []
        for height, width in source.sizes().tolist():
            factors.append(fit_size(height, width, config.min_size, config.max_size)[0] / height)
        scaled = sides * np.repeat(factors, source.num_objects())
        fit = source.table.trains[source.object_rows()]
        tiny += int((scaled[fit] < _TINY).sum())
        total += int(fit.sum())
    if total and tiny / total >= _TINY_SHARE:
        text = (
            f"{tiny} of {total} objects are smaller than {_TINY:.0f} pixels in the network's input "
            f"(min_size = {config.min_size}): few of them can be found; a larger min_size helps"
        )
        yield Finding("tiny_objects", text)


def _balance(report: DoctorReport, train: str) -> Iterator[Finding]:
    counts = dict(zip(report.classes, report.class_counts.get(train, ()), strict=False))
    empty = [name for name, count in counts.items() if not count]
    filled = sorted((count, name) for name, count in counts.items() if count)
    if empty:
        yield finding("empty_class", "{n} classes have no object to train on", empty)
    few = [f"{name} ({count})" for count, name in filled if count < _FEW_OBJECTS]
    if few:
        text = f"{{n}} classes have fewer than {_FEW_OBJECTS} objects to train on"
        yield finding("few_objects", text, few)
    if filled and filled[-1][0] / filled[0][0] >= _IMBALANCE:
        (least, rare), (most, common) = filled[0], filled[-1]
        text = f"class imbalance {most / least:.0f} : 1 ({common!r} {most}, {rare!r} {least})"
        yield Finding("imbalance", text)
    for split in ("val", "test"):
        measured = zip(report.classes, report.class_counts.get(split, ()), strict=False)
        if missing := [name for name, count in measured if not count and counts[name]]:
            text = f"{{n}} classes have no object in the {split} split"
            yield finding("class_not_measured", text, missing)
