"""What an evaluation of a segmenter found, as plain values for a report, a log or a JSON file."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ImageScore", "SegmentationResult", "mean"]

Scores = tuple[float | None, ...]
MAX_JSON_CLASSES = 200
MAX_JSON_IMAGES = 100


@dataclass(frozen=True, kw_only=True)
class ImageScore:
    """Scores of one image.

    Attributes:
        index: Position in the data set.
        pixels: Pixels that count.
        miou: Mean IoU in percent over the classes that are in its truth or were said in it; None
            where no pixel counts.
        accuracy: Percent of the pixels that are right; None likewise.
    """

    index: int
    pixels: int
    miou: float | None
    accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class SegmentationResult:
    """Scores of a segmenter on one set, in percent.

    With ``n[i, j]`` the number of pixels of class ``i`` that were called ``j``, added up over all
    images, ``t[i] = sum_j n[i, j]`` and ``s[i] = sum_j n[j, i]``:

    - IoU (Jaccard) ``n[i, i] / (t[i] + s[i] - n[i, i])``;
    - Dice (F1) ``2 n[i, i] / (t[i] + s[i])``;
    - accuracy (recall) ``n[i, i] / t[i]``;
    - mIoU, mean Dice, mean accuracy: means over the classes for which they exist. A class that is
      nowhere, neither in the truth nor in what was said, has no IoU and is left out; one that was
      only said has an IoU of 0, which counts;
    - pixel accuracy ``sum_i n[i, i] / sum_i t[i]``;
    - frequency-weighted IoU ``sum_i t[i] IoU[i] / sum_i t[i]``.

    Source: Long et al., "Fully convolutional networks for semantic segmentation", section 5; the
    mean over a set-wide I/U is that of the ADE20K benchmark and of mmsegmentation.

    Attributes:
        class_names: ``K`` names, in the order of the classes.
        confusion: ``(K, K)`` int64: rows are true classes, columns what was said.
        images: Scores of each image, in the order of the set.
        ignored: Pixels that count for nothing.
    """

    class_names: tuple[str, ...]
    confusion: npt.NDArray[np.int64] = field(repr=False)
    images: tuple[ImageScore, ...] = field(repr=False)
    ignored: int

    @property
    def num_classes(self) -> int:
        """Number of classes, those without a pixel included."""
        return len(self.class_names)

    @property
    def num_images(self) -> int:
        """Number of images."""
        return len(self.images)

    @property
    def num_pixels(self) -> int:
        """Number of pixels that count."""
        return int(self.confusion.sum())

    @cached_property
    def pixels(self) -> tuple[int, ...]:
        """Pixels that are of each class."""
        return tuple(self.confusion.sum(axis=1).tolist())

    @cached_property
    def said(self) -> tuple[int, ...]:
        """Pixels that were called each class, those that do not count left out."""
        return tuple(self.confusion.sum(axis=0).tolist())

    @cached_property
    def hits(self) -> tuple[int, ...]:
        """Pixels of each class that are right."""
        return tuple(self.confusion.diagonal().tolist())

    @property
    def iou(self) -> Scores:
        """IoU of each class; None for one that is nowhere."""
        rows = zip(self.hits, self.pixels, self.said, strict=True)
        return tuple(_percent(hit, true + said - hit) for hit, true, said in rows)

    @property
    def dice(self) -> Scores:
        """Dice (F1) of each class; None for one that is nowhere."""
        rows = zip(self.hits, self.pixels, self.said, strict=True)
        return tuple(_percent(2 * hit, true + said) for hit, true, said in rows)

    @property
    def accuracy(self) -> Scores:
        """Accuracy (recall) of each class; None for one without pixels."""
        return tuple(_percent(*row) for row in zip(self.hits, self.pixels, strict=True))

    @property
    def miou(self) -> float | None:
        """Mean IoU; None where no pixel counts."""
        return mean(self.iou)

    @property
    def mean_dice(self) -> float | None:
        """Mean Dice."""
        return mean(self.dice)

    @property
    def mean_accuracy(self) -> float | None:
        """Mean accuracy of the classes that have pixels."""
        return mean(self.accuracy)

    @property
    def pixel_accuracy(self) -> float | None:
        """Share of the pixels that are right."""
        return _percent(sum(self.hits), self.num_pixels)

    @property
    def frequency_weighted_iou(self) -> float | None:
        """Mean IoU of the classes, weighted by their pixels."""
        if not self.num_pixels:
            return None
        rows = zip(self.iou, self.pixels, strict=True)
        return sum((iou or 0.0) * pixels for iou, pixels in rows) / self.num_pixels

    @property
    def confusion_pairs(self) -> npt.NDArray[np.int64]:
        """``(P, 3)`` rows (true, said, pixels), those that are not zero only, sorted."""
        true, said = np.nonzero(self.confusion)
        return np.stack([true, said, self.confusion[true, said]], axis=1)

    def worst(self, n: int) -> tuple[ImageScore, ...]:
        """The images of lowest mIoU, worst first, without those where no pixel counts."""
        scored = [(i.miou, i.index, i) for i in self.images if i.miou is not None]
        return tuple(image for _, _, image in sorted(scored, key=lambda row: row[:2])[:n])

    def scalars(self) -> dict[str, float]:
        """The single numbers, for logs; those that do not exist for this set are left out."""
        names = ("miou", "mean_accuracy", "pixel_accuracy", "frequency_weighted_iou", "mean_dice")
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    def to_json(self) -> dict[str, Any]:
        """Scores, classes, the worst 100 images; the matrix only up to 200 classes."""
        values: dict[str, Any] = {"num_images": self.num_images, "num_pixels": self.num_pixels}
        values |= {"ignored": self.ignored, **self.scalars()}
        columns = (self.class_names, self.pixels, self.said, self.iou, self.dice, self.accuracy)
        names = ("name", "pixels", "said", "iou", "dice", "accuracy")
        values["per_class"] = [
            dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)
        ]
        if self.num_classes <= MAX_JSON_CLASSES:
            values["confusion"] = self.confusion.tolist()
        values["worst"] = [asdict(image) for image in self.worst(MAX_JSON_IMAGES)]
        return values


def mean(values: Sequence[float | None] | npt.NDArray[np.float64]) -> float | None:
    """Mean of the values that exist; None without any."""
    there = [float(value) for value in values if value is not None]
    return sum(there) / len(there) if there else None


def _percent(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None
