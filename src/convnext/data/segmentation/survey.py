"""Reading every mask once: sizes, and how many pixels each class has."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convnext.data import cache
from convnext.data.scan import each, stamp_key
from convnext.data.segmentation.coding import mask_pixels
from convnext.data.segmentation.source import SegmentationSource


@dataclass(frozen=True)
class Survey:
    """What the masks of a source hold.

    Attributes:
        sizes: (N, 2) int64, height and width in pixels.
        pixels: (N, K + 1) int64, pixels of each class; the last column is what is ignored.
    """

    sizes: NDArray[np.int64]
    pixels: NDArray[np.int64]


def survey_masks(source: SegmentationSource, workers: int = -1, *, skip: bool = False) -> Survey:
    """Read every mask with all cores; the result is kept until a file changes.

    Args:
        source: the images and masks.
        workers: processes, -1 = by the number of cores.
        skip: masks that cannot be used have size 0 and no pixels, instead of ending the run.

    Raises:
        ValueError: naming the first mask that cannot be used.
    """
    rows = cache.computed(
        "mask_survey",
        stamp_key(source),
        lambda: list(each(_describe, source, label="reading masks", workers=workers)),
    )
    errors = [row["error"] for row in rows if "error" in row]
    if errors and not skip:
        raise ValueError(
            f"{len(errors)} masks cannot be used, the first: {errors[0]}. `convnext doctor` lists "
            "them; on_bad_image = skip leaves them out"
        )
    sizes = np.zeros((len(rows), 2), np.int64)
    pixels = np.zeros((len(rows), len(source.classes) + 1), np.int64)
    for i, row in enumerate(rows):
        if "error" not in row:
            sizes[i] = row["size"]
            pixels[i, row["classes"]] = row["pixels"]
    return Survey(sizes, pixels)


def class_pixels(mask: NDArray[np.int16], num_classes: int) -> NDArray[np.int64]:
    """Pixels of each class of a mask, (K + 1,); the last is what is ignored."""
    return np.roll(np.bincount(mask.ravel() + 1, minlength=num_classes + 1), -1)


def training_values(source: SegmentationSource, workers: int = -1) -> tuple[int, ...]:
    """The values that occur in the masks of a source, ascending; what cannot be read is passed by.

    Raises:
        ValueError: naming a mask in colours.
    """

    def find() -> list[int]:
        parts = each(_values, source, label="looking for classes", workers=workers)
        return sorted({value for part in parts for value in part})

    return tuple(cache.computed("mask_values", stamp_key(source), find))


def _describe(source: SegmentationSource, i: int) -> dict[str, Any]:
    try:
        mask = source.mask(i)
    except (OSError, ValueError) as error:
        return {"error": str(error)}
    counts = class_pixels(mask, len(source.classes))
    present = np.flatnonzero(counts)
    return {"size": mask.shape, "classes": present.tolist(), "pixels": counts[present].tolist()}


def _values(source: SegmentationSource, i: int) -> list[int]:
    try:
        pixels, coloured = mask_pixels(source.raw_mask(i), source.mask_name(i))
    except ValueError:
        return []
    if coloured:
        source.coding.decode(source.raw_mask(i), source.mask_name(i))  # says what is missing
    if pixels.dtype in (np.uint8, np.uint16):
        present: list[int] = np.flatnonzero(np.bincount(pixels.ravel())).tolist()
        return present
    return [int(value) for value in np.unique(pixels)]
