"""Collecting images and objects from any file format, with what is wrong with them."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from convnext.data.detection.rle import encode_mask
from convnext.data.detection.source import DetectionSource, PackedBytes, Table
from convnext.data.splits import Finding

_EXAMPLES = 20

# What ends a run before it starts; everything else is only worth knowing.
ERRORS = {
    "duplicate_image": "{n} images with the number of another image",
    "unknown_category": "{n} objects of a category that is not in the list of categories",
    "unknown_image": "{n} objects of an image that is not in the list of images",
    "broken_box": "{n} objects whose box is not four finite numbers",
    "broken_mask": "{n} objects with a broken mask",
    "broken_label": "{n} lines or objects that cannot be understood",
    "no_annotation": "{n} images without an annotation file",
}
WARNINGS = {
    "degenerate_box": "{n} objects whose box is less than one pixel wide or high, or of no area; "
    "they do not train",
    "outside_box": "{n} objects whose box lies outside the image; they do not train",
    "clipped_box": "{n} objects whose box leaves the image; training cuts it off",
    "no_mask": "{n} objects without a mask",
    "not_listed": "{n} images without an annotation are left out",
    "no_label_file": "{n} images without a label file count as images without objects",
    "difficult": "{n} objects marked as difficult; they are neither trained nor counted",
    "renumbered": "{n} objects whose numbers are missing, 0 or used twice got new ones",
    "size_differs": "{n} images of another size than their annotation says",
}


class Box(NamedTuple):
    """An object to be added: box as x, y, width, height in pixels."""

    label: int
    box: tuple[float, float, float, float]
    area: float
    crowd: bool = False
    segmentation: object = None
    number: int = 0


@dataclass(frozen=True)
class Annotated:
    """One split as read: `source.category_ids` belong to `classes`, in the same order."""

    source: DetectionSource
    classes: tuple[str, ...]
    errors: tuple[Finding, ...] = ()
    warnings: tuple[Finding, ...] = ()


class Collector:
    """Images and objects on their way into a `DetectionSource`.

    Args:
        where: the file or folder, for messages.
        root: folder that paths of images start from.
        masks: read masks.
        keep_unfit: keep boxes that cannot train as part of the ground truth (COCO does).
    """

    def __init__(self, where: str, root: str, *, masks: bool, keep_unfit: bool) -> None:
        self.where = where
        self._root = root
        self._masks = masks
        self._keep_unfit = keep_unfit
        self._paths: list[str] = []
        self._ids: list[int] = []
        self._sizes: list[tuple[int, int]] = []
        self._objects: list[list[tuple[Box, bool, bytes]]] = []
        self._notes: defaultdict[str, list[str]] = defaultdict(list)

    def __len__(self) -> int:
        return len(self._paths)

    def note(self, kind: str, text: str) -> None:
        """Remember one occurrence of a kind of `ERRORS` or `WARNINGS`."""
        assert kind in ERRORS or kind in WARNINGS, kind
        self._notes[kind].append(text)

    def add_image(self, path: str, height: int, width: int, number: int) -> int:
        """Add an image; returns its row, to add objects to."""
        self._paths.append(path)
        self._sizes.append((height, width))
        self._ids.append(number)
        self._objects.append([])
        return len(self._paths) - 1

    def add_object(self, row: int, item: Box, name: str) -> None:
        """Add an object to an image; what is wrong with it is noted under `name`."""
        height, width = self._sizes[row]
        x, y, w, h = item.box
        if not all(map(math.isfinite, (*item.box, item.area))):
            self.note("broken_box", f"{name}: box {item.box}")
            return
        across = min(x + w, width) - max(x, 0)
        down = min(y + h, height) - max(y, 0)
        fit = w >= 1 and h >= 1 and item.area > 0 and across > 0 and down > 0
        if not fit:
            kind = "degenerate_box" if w < 1 or h < 1 or item.area <= 0 else "outside_box"
            self.note(kind, f"{name}: box {_box(item.box)}, image {width}x{height}")
            if not self._keep_unfit:
                return
        elif across < w - 1 or down < h - 1:
            self.note("clipped_box", f"{name}: box {_box(item.box)}, image {width}x{height}")
        mask = self._encode(item, fit, height, width, name) if self._masks else b""
        if mask is not None:
            # Without the polygons: those of a large set would fill the memory.
            kept = item._replace(segmentation=None)
            self._objects[row].append((kept, fit and not item.crowd, mask))

    def finish(self, category_ids: Sequence[int], classes: Sequence[str]) -> Annotated:
        """The collected images as a source, with what was noted."""
        flat = [entry for objects in self._objects for entry in objects]
        num = len(flat)
        boxes = np.array([item.box for item, _, _ in flat], np.float64).reshape(num, 4)
        trains = np.fromiter((trains for _, trains, _ in flat), np.bool_, num)
        masked = np.fromiter((bool(mask) for _, _, mask in flat), np.bool_, num)
        masks = self._masks and bool(masked.any())
        for i in np.flatnonzero(trains & ~masked).tolist() if masks else ():
            self.note("no_mask", f"{self.where}: object {flat[i][0].number}")
            masks = False  # a mask head cannot be trained on a part of the objects of an image
        table = Table(
            image_ids=np.array(self._ids, np.int64),
            sizes=np.array(self._sizes, np.int64).reshape(-1, 2),
            ends=np.cumsum([len(objects) for objects in self._objects], dtype=np.int64),
            ids=self._numbers([item.number for item, _, _ in flat]),
            boxes=boxes,
            labels=np.fromiter((item.label for item, _, _ in flat), np.int64, num),
            area=np.fromiter((item.area for item, _, _ in flat), np.float64, num),
            crowd=np.fromiter((item.crowd for item, _, _ in flat), np.bool_, num),
            trains=trains,
            rles=PackedBytes([mask for _, _, mask in flat]) if masks else None,
        )
        source = DetectionSource(self._root, self._paths, table, tuple(category_ids))
        return Annotated(source, tuple(classes), self._found(ERRORS), self._found(WARNINGS))

    def _encode(self, item: Box, fit: bool, height: int, width: int, name: str) -> bytes | None:
        try:
            return encode_mask(item.segmentation, height, width) or b""
        except ValueError as error:
            if not fit:
                return b""
            self.note("broken_mask", f"{name}: {error}")
            return None

    def _numbers(self, numbers: list[int]) -> np.ndarray:
        given = np.array(numbers, np.int64)
        if len(given) and (given.min() <= 0 or len(np.unique(given)) < len(given)):
            if given.any():
                self._notes["renumbered"] = [self.where] * len(given)
            # pycocotools takes the number 0 for "no match".
            return np.arange(1, len(given) + 1)
        return given

    def _found(self, kinds: dict[str, str]) -> tuple[Finding, ...]:
        found = []
        for kind, text in kinds.items():
            if examples := self._notes.get(kind):
                more = f"{self.where}: " + text.format(n=len(examples))
                found.append(Finding(kind, more, tuple(examples[:_EXAMPLES])))
        return tuple(found)


def _box(box: tuple[float, float, float, float]) -> str:
    return " ".join(f"{value:g}" for value in box)
