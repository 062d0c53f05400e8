"""Images with their objects: boxes, classes and masks, packed and cheap to copy."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convnext.data.decode import read_image
from convnext.data.source import FileSource


class PackedBytes(Sequence[bytes]):
    """Many byte strings in two arrays, as `PackedStrings` holds many texts."""

    def __init__(self, parts: Sequence[bytes]) -> None:
        lengths = np.fromiter((len(part) for part in parts), np.int64, len(parts))
        self.ends: NDArray[np.int64] = np.cumsum(lengths)
        self.bytes: NDArray[np.uint8] = np.frombuffer(b"".join(parts), np.uint8)

    @classmethod
    def of(cls, ends: NDArray[np.int64], content: NDArray[np.uint8]) -> Self:
        """The strings whose arrays these are."""
        packed = cls(())
        packed.ends, packed.bytes = ends, content
        return packed

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, i: int) -> bytes:  # type: ignore[override] # slices are not needed
        start = int(self.ends[i - 1]) if i else 0
        return self.bytes[start : int(self.ends[i])].tobytes()


@dataclass(frozen=True)
class Objects:
    """The objects of one image, as annotated.

    Attributes:
        boxes: (n, 4) float32, x1, y1, x2, y2 in pixels; they may leave the image.
        labels: (n,) int64, 0-based.
        crowd: (n,) bool; what is neither trained nor counted: crowds, and "difficult" objects.
        area: (n,) float64, in pixels, as annotated.
        trains: (n,) bool; fit for training: no crowd, and a box of at least one pixel a side that
            meets the image.
        rles: compressed COCO run lengths of the masks of the image's size, b"" where an object has
            none; None where the set has no masks.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    area: NDArray[np.float64]
    trains: NDArray[np.bool_]
    rles: list[bytes] | None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Table:
    """All images and objects of a set as columns; the objects of an image follow one another.

    Attributes:
        image_ids: (N,) int64.
        sizes: (N, 2) int64, height and width in pixels.
        ends: (N,) int64; the objects of image i are those from ends[i - 1] to ends[i].
        ids: (M,) int64, of the objects.
        boxes: (M, 4) float64, x, y, width, height.
        labels: (M,) int64; likewise `area` float64, `crowd` and `trains` bool.
        rles: M masks, or None.
    """

    image_ids: NDArray[np.int64]
    sizes: NDArray[np.int64]
    ends: NDArray[np.int64]
    ids: NDArray[np.int64]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    area: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    trains: NDArray[np.bool_]
    rles: PackedBytes | None


class DetectionSource(FileSource):
    """Image files with the objects in them.

    `labels` of the base class are all 0: an image has no class of its own.

    Args:
        root: folder that relative paths start from.
        paths: one per image, relative to `root` or absolute.
        table: the images and their objects.
        category_ids: the number of each class in the files the set came from, ascending.

    Attributes:
        category_ids: as above.
        has_masks: whether every object that trains has a mask.
    """

    def __init__(
        self, root: str, paths: Iterable[str], table: Table, category_ids: tuple[int, ...]
    ) -> None:
        super().__init__(root, paths, np.zeros(len(table.sizes), np.int64))
        self.category_ids = category_ids
        self.has_masks = table.rles is not None
        # Landscape and portrait apart: images of one batch then pad each other little.
        self.shapes = (table.sizes[:, 1] > table.sizes[:, 0]).astype(np.int64)
        self._table = table

    def size(self, i: int) -> tuple[int, int]:
        """Height and width of image `i` in pixels, as annotated."""
        height, width = self._table.sizes[self._rows[i]].tolist()
        return height, width

    def image_id(self, i: int) -> int:
        """The number of image `i` in the file it came from."""
        return int(self._table.image_ids[self._rows[i]])

    def objects(self, i: int) -> Objects:
        """Every object of image `i`, crowds and unfit ones included."""
        table, span = self._table, self._span(i)
        boxes = table.boxes[span]
        boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        rles = None
        if self.has_masks and table.rles is not None:
            rles = [table.rles[k] for k in range(span.start, span.stop)]
        return Objects(
            boxes=boxes.astype(np.float32),
            labels=table.labels[span],
            crowd=table.crowd[span],
            area=table.area[span],
            trains=table.trains[span],
            rles=rles,
        )

    def sizes(self) -> NDArray[np.int64]:
        """Height and width of every image, (N, 2)."""
        return self._table.sizes[self._rows]

    def object_rows(self) -> NDArray[np.int64]:
        """The positions in the table of all objects of the images here, in their order."""
        spans = [self._span(i) for i in range(len(self))]
        parts = [np.arange(span.start, span.stop) for span in spans]
        return np.concatenate([*parts, np.empty(0, np.int64)]).astype(np.int64)

    def box_sides(self) -> NDArray[np.float64]:
        """sqrt(width * height) of every box in pixels, (M,) in the order of `object_rows`."""
        sizes = self._table.boxes[self.object_rows(), 2:]
        sides: NDArray[np.float64] = np.sqrt(sizes.clip(min=0).prod(axis=1))
        return sides

    def num_objects(self, *, trains: bool = False) -> NDArray[np.int64]:
        """The number of objects of each image, (N,); with `trains` of those fit for training."""
        marks = self._table.trains if trains else np.ones(len(self._table.labels), np.bool_)
        totals = np.concatenate([[0], np.cumsum(marks)])
        ends = self._table.ends[self._rows]
        starts = np.where(self._rows > 0, self._table.ends[self._rows - 1], 0)
        counts: NDArray[np.int64] = totals[ends] - totals[starts]
        return counts

    def class_counts(self, num_classes: int) -> NDArray[np.int64]:
        """How many objects fit for training each class has, (num_classes,)."""
        rows = self.object_rows()
        labels = self._table.labels[rows[self._table.trains[rows]]]
        return np.bincount(labels, minlength=num_classes)

    @property
    def root(self) -> str:
        """The folder that keys start from."""
        return self._root

    @property
    def table(self) -> Table:
        """The columns that `object_rows` number."""
        return self._table

    def without_masks(self) -> Self:
        """The same images and boxes; masks go unread."""
        other = self.subset(np.arange(len(self)))
        other.has_masks = False
        return other

    def renumbered(self, labels: NDArray[np.int64], category_ids: tuple[int, ...]) -> Self:
        """The same objects with other labels: label k becomes labels[k]."""
        other = self.subset(np.arange(len(self)))
        other._table = replace(self._table, labels=labels[self._table.labels])
        other.category_ids = category_ids
        return other

    def to_coco(self, classes: Sequence[str]) -> dict[str, Any]:
        """The ground truth as the content of a COCO file, for pycocotools.

        Ids of images, objects and classes are those of the file the set came from; crowds and
        objects unfit for training are part of it.

        Args:
            classes: K names, in the order of the labels.
        """
        table = self._table
        images, annotations = [], []
        for i in range(len(self)):
            height, width = self.size(i)
            number = self.image_id(i)
            images.append(
                {"id": number, "file_name": self.key(i), "height": height, "width": width}
            )
            span = self._span(i)
            for k in range(span.start, span.stop):
                entry: dict[str, Any] = {
                    "id": int(table.ids[k]),
                    "image_id": number,
                    "category_id": self.category_ids[int(table.labels[k])],
                    "bbox": table.boxes[k].tolist(),
                    "area": float(table.area[k]),
                    "iscrowd": int(table.crowd[k]),
                }
                if self.has_masks and table.rles is not None:
                    counts = table.rles[k] or _empty(height, width)
                    entry["segmentation"] = {"size": [height, width], "counts": counts.decode()}
                annotations.append(entry)
        categories = [
            {"id": number, "name": name}
            for number, name in zip(self.category_ids, classes, strict=True)
        ]
        return {"images": images, "annotations": annotations, "categories": categories}

    def _span(self, i: int) -> slice:
        row = int(self._rows[i])
        ends = self._table.ends
        return slice(int(ends[row - 1]) if row else 0, int(ends[row]))

    def _decode(self, i: int, data: bytes, channels: int, name: str) -> Image.Image:
        """The picture in the position in which it was annotated.

        Some tools annotate a turned photograph as it lies in the file, others as it is shown.
        """
        height, width = self.size(i)
        image = read_image(data, channels, name=name)
        if image.size == (width, height):
            return image
        flat = read_image(data, channels, name=name, upright=False)
        if flat.size == (width, height):
            return flat
        raise ValueError(
            f"{name}: the image has {image.width}x{image.height} pixels, its annotation says "
            f"{width}x{height}; put the image back that was annotated, or correct its entry"
        )


def _empty(height: int, width: int) -> bytes:
    from pycocotools import mask as coco_mask

    counts: bytes = coco_mask.encode(np.zeros((height, width), np.uint8, order="F"))["counts"]
    return counts
