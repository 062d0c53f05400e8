"""What a detection set is like, as far as a recipe depends on it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convnext.data.detection.source import DetectionSource

SMALL = 20  # percentile of the sizes of objects


@dataclass(frozen=True, kw_only=True)
class DetectionSummary:
    """Counts and sizes of the training images of a detection set.

    Attributes:
        num_images: images.
        num_objects: objects that train.
        num_classes: classes.
        has_masks: whether there are masks to learn from.
        median_short_side: of the images, in pixels.
        median_long_side: likewise.
        small_object: side of a square as large as a small object, in pixels of its image: a fifth
            of the objects are smaller.
        most_objects: objects of the fullest image.
    """

    num_images: int
    num_objects: int
    num_classes: int
    has_masks: bool
    median_short_side: int
    median_long_side: int
    small_object: float
    most_objects: int


def detection_summary(source: DetectionSource) -> DetectionSummary:
    """Describe the images and objects of a source with at least one object."""
    counts = source.num_objects(trains=True)
    sizes = source.sizes()
    trains = source.table.trains[source.object_rows()]
    return DetectionSummary(
        num_images=len(source),
        num_objects=int(counts.sum()),
        num_classes=len(source.category_ids),
        has_masks=source.has_masks,
        median_short_side=int(np.median(sizes.min(axis=1))),
        median_long_side=int(np.median(sizes.max(axis=1))),
        small_object=float(np.percentile(box_sides(source)[trains], SMALL)),
        most_objects=int(counts.max()),
    )


def box_sides(source: DetectionSource) -> NDArray[np.float64]:
    """Side of the square that is as large as the box of each object, in pixels: (M,)."""
    boxes = source.table.boxes[source.object_rows()]
    sides: NDArray[np.float64] = np.sqrt(np.maximum(boxes[:, 2] * boxes[:, 3], 0.0))
    return sides
