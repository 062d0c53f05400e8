"""A check-up of a data set: what would break training, and what would spoil its result."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import PurePath
from typing import Self

import numpy as np

from convnext.data.config import DataConfig
from convnext.data.listing import Listing
from convnext.data.scan import THUMB, Record
from convnext.data.scan import scan as scan_source
from convnext.data.source import Source
from convnext.data.splits import Finding, Splits, assemble

SMALLEST_INPUT = 32  # pixels; the network divides its input by 32
_FEW_IMAGES = 5
_IMBALANCE = 10.0
_ASPECT = 8.0
_EXAMPLES = 20
# Mean difference of two thumbnails, in grey levels, that re-encoding or resizing stays below.
_NEAR = 1.0
_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "MPO": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "DIB": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k"),
    "AVIF": (".avif",),
}


@dataclass(frozen=True)
class DoctorReport:
    """What `scan` found. Errors make training fail or its score meaningless, warnings may not.

    Attributes:
        counts: number of images per split and of each kind of finding.
        classes: class names.
        class_counts: images of each class per split.
    """

    path: str
    errors: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    class_counts: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether there are no errors."""
        return not self.errors

    def counted(self) -> Self:
        """The report itself, with the number of findings of each kind among its counts."""
        for found in self.errors + self.warnings:
            examples = max(1, len(found.files))
            self.counts[found.kind] = self.counts.get(found.kind, 0) + examples
        return self

    def to_json(self) -> str:
        """The report as indented JSON text."""
        return json.dumps({"ok": self.ok, **asdict(self)}, indent=2)

    def __str__(self) -> str:
        sizes = ", ".join(f"{name} {number}" for name, number in self.counts.items())
        lines = [f"{self.path}: {len(self.classes)} classes; {sizes}"]
        for title, findings in (("error", self.errors), ("warning", self.warnings)):
            for found in findings:
                lines.append(f"{title}: {found.message}")
                lines += [f"    {name}" for name in found.files]
        lines.append(f"{len(self.errors)} errors, {len(self.warnings)} warnings")
        return "\n".join(lines)


def scan(config: DataConfig, workers: int = -1) -> DoctorReport:
    """Read every image with all cores and report what is wrong with the data.

    Errors: data that cannot be opened, empty classes, one class only, classes missing from train,
    unreadable images, the same file in two splits or under two labels. Warnings: the same file
    twice, near duplicates across splits, imbalance, classes of few images, tiny or very long
    images, names that do not fit the content, labels that do not fit the folder, ignored files.

    Raises:
        OSError: if a folder may not be read.
    """
    try:
        splits, errors, listings = assemble(config)
    except ValueError as error:
        return DoctorReport(config.path, errors=[Finding("cannot_open", str(error))])
    report = DoctorReport(config.path, errors=list(errors), classes=splits.classes)
    records: dict[str, list[Record]] = {}
    for name, source in splits.named().items():
        records[name] = list(scan_source(source, label=f"reading {name} images", workers=workers))
        report.counts[name] = len(source)
        counts = np.bincount(source.labels, minlength=len(splits.classes))
        report.class_counts[name] = tuple(counts.tolist())
    report.errors.extend(unreadable(records))
    duplicates(splits.named(), records, report)
    report.warnings.extend(near_duplicates(splits.named(), records))
    report.warnings.extend(_balance(report))
    report.warnings.extend(_names(splits, listings))
    report.warnings.extend(_shapes(splits, records, config))
    report.warnings.extend(formats(splits.named(), records))
    return report.counted()


def finding(kind: str, message: str, files: Iterable[str]) -> Finding:
    """A finding with at most 20 examples; `{n}` in the message becomes their whole number."""
    names = list(files)
    more = f" (the first {_EXAMPLES} are listed)" if len(names) > _EXAMPLES else ""
    return Finding(kind, message.format(n=len(names)) + more, tuple(names[:_EXAMPLES]))


def unreadable(records: Mapping[str, list[Record]]) -> list[Finding]:
    """Images that cannot be decoded."""
    bad = [record.error for part in records.values() for record in part if record.error]
    return [finding("unreadable", "{n} unreadable images", bad)] if bad else []


def duplicates(
    sources: Mapping[str, Source], records: Mapping[str, list[Record]], report: DoctorReport
) -> None:
    """Add to a report the images that are there more than once, byte by byte."""
    places: dict[bytes, list[tuple[str, int]]] = defaultdict(list)
    for name, part in records.items():
        for i, record in enumerate(part):
            if not record.error:
                places[record.digest].append((name, i))
    across, labels, within = [], [], []
    for group in places.values():
        if len(group) < 2:
            continue
        line = " = ".join(_place(sources, name, i) for name, i in group)
        if len({int(sources[name].labels[i]) for name, i in group}) > 1:
            labels.append(line)
        if len({name for name, _ in group}) > 1:
            across.append(line)
        elif not labels or labels[-1] != line:
            within.append(line)
    if across:
        text = "{n} images are in more than one split: the score would be too good"
        report.errors.append(finding("duplicate_across_splits", text, across))
    if labels:
        text = "{n} images are there under different labels"
        report.errors.append(finding("duplicate_with_other_label", text, labels))
    if within:
        text = "{n} images are there more than once"
        report.warnings.append(finding("duplicate", text, within))


def near_duplicates(
    sources: Mapping[str, Source], records: Mapping[str, list[Record]]
) -> list[Finding]:
    """Pairs in different splits whose thumbnails are alike and whose bytes are not."""
    buckets: dict[bytes, list[tuple[str, int]]] = defaultdict(list)
    for name, part in records.items():
        for i, record in enumerate(part):
            if not record.error:
                buckets[_fingerprint(record)].append((name, i))
    pairs = []
    for group in buckets.values():
        trained = [place for place in group if place[0] == "train"][:_EXAMPLES]
        for held in (place for place in group if place[0] != "train"):
            other = records[held[0]][held[1]]
            for place in trained:
                record = records[place[0]][place[1]]
                if record.digest != other.digest and _alike(record, other):
                    pairs.append(f"{_place(sources, *place)} ~ {_place(sources, *held)}")
                    break
    text = "{n} held-out images look like a training image (another copy or crop of it?)"
    return [finding("near_duplicate", text, pairs)] if pairs else []


def _thumb(record: Record) -> np.ndarray:
    return np.frombuffer(record.thumb, np.uint8).reshape(THUMB, THUMB).astype(np.int16)


def _fingerprint(record: Record) -> bytes:
    """64 bits that survive re-encoding: which cells of an 8 x 8 grid are above the mean."""
    grid = _thumb(record).reshape(8, 2, 8, 2).mean(axis=(1, 3))
    return np.packbits(grid > grid.mean()).tobytes()


def _alike(a: Record, b: Record) -> bool:
    first, second = _thumb(a), _thumb(b)
    return bool(first.std() > 2 and np.abs(first - second).mean() <= _NEAR)


def _balance(report: DoctorReport) -> list[Finding]:
    findings = []
    counts = report.class_counts["train"]
    filled = [(count, name) for count, name in zip(counts, report.classes, strict=False) if count]
    (least, rare), (most, common) = min(filled), max(filled)
    if most / least >= _IMBALANCE:
        text = (
            f"class imbalance {most / least:.0f} : 1 ({common!r} {most} training images, "
            f"{rare!r} {least}); consider sampling = balanced"
        )
        findings.append(Finding("imbalance", text))
    few = [f"{name} ({count})" for count, name in filled if count < _FEW_IMAGES]
    if few:
        text = f"{{n}} classes have fewer than {_FEW_IMAGES} training images"
        findings.append(finding("few_images", text, few))
    for split in ("val", "test"):
        missing = [
            name
            for name, count in zip(report.classes, report.class_counts.get(split, ()), strict=False)
            if count == 0
        ]
        if missing:
            text = f"{{n}} classes have no image in the {split} split"
            findings.append(finding("class_not_measured", text, missing))
    return findings


def similar_names(classes: tuple[str, ...]) -> list[Finding]:
    """Class names that a person would take for one."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        alike[" ".join(name.lower().replace("_", " ").replace("-", " ").split())].append(name)
    same = [" / ".join(map(repr, names)) for names in alike.values() if len(names) > 1]
    text = "{n} class names differ only in case or spacing: the same class?"
    return [finding("similar_names", text, same)] if same else []


def _names(splits: Splits, listings: Mapping[str, Listing]) -> list[Finding]:
    findings = similar_names(splits.classes)
    ignored = sum(listing.ignored for listing in listings.values())
    if ignored:
        text = f"{ignored} files were left out because their names are not those of images"
        findings.append(Finding("ignored_files", text))
    positions = {name: i for i, name in enumerate(splits.classes)}
    wrong = []
    for source in splits.named().values():
        for i in range(len(source)):
            folder = PurePath(source.key(i)).parent.name
            label = int(source.labels[i])
            if positions.get(folder, label) != label:
                wrong.append(f"{source.name(i)}: labelled {splits.classes[label]!r}")
    if wrong:
        text = "{n} images lie in the folder of another class than their label"
        findings.append(finding("label_folder_mismatch", text, wrong))
    return findings


def _shapes(
    splits: Splits, records: Mapping[str, list[Record]], config: DataConfig
) -> list[Finding]:
    tiny, long, sides = [], [], []
    for name, source in splits.named().items():
        for i, record in enumerate(records[name]):
            if record.error:
                continue
            short, longer = sorted((record.width, record.height))
            size = f"{source.name(i)} ({record.width}x{record.height})"
            sides.append(short)
            if short < min(SMALLEST_INPUT, config.image_size):
                tiny.append(size)
            if longer > _ASPECT * short:
                long.append(size)
    findings = []
    if tiny:
        text = f"{{n}} tiny images (a side below {SMALLEST_INPUT} pixels)"
        findings.append(finding("tiny", text, tiny))
    if long:
        text = f"{{n}} images more than {_ASPECT:.0f} times as long as wide: crops see little"
        findings.append(finding("extreme_aspect", text, long))
    if sides and np.median(sides) < config.image_size / 2:
        text = (
            f"the images are small (median short side {np.median(sides):.0f} pixels) for "
            f"image_size {config.image_size}: a smaller one is faster and loses nothing"
        )
        findings.append(Finding("small_for_input", text))
    return findings


def formats(sources: Mapping[str, Source], records: Mapping[str, list[Record]]) -> list[Finding]:
    """Images whose names say another format than their content."""
    wrong = []
    for name, source in sources.items():
        for i, record in enumerate(records[name]):
            suffix = PurePath(source.key(i)).suffix.lower()
            if record.format and suffix and suffix not in _SUFFIXES.get(record.format, (suffix,)):
                wrong.append(f"{source.name(i)} (is {record.format})")
    text = "{n} files are of another format than their names say (they are read rightly)"
    return [finding("format_mismatch", text, wrong)] if wrong else []


def _place(sources: Mapping[str, Source], split: str, i: int) -> str:
    source = sources[split]
    return f"{source.name(i)} ({split})"
