"""What a detection set is like, as far as a recipe depends on it."""

from dataclasses import dataclass

import numpy as np

from convnext.data.config import DetectionDataConfig
from convnext.data.detection.source import DetectionSource
from convnext.data.detection.trained import SMALLEST_SIDE, trained_images

SMALL, LARGE = 20, 95  # percentiles of the sizes of objects


@dataclass(frozen=True, kw_only=True)
class DetectionSummary:
    """Counts and sizes of the images of a detection set that train.

    Attributes:
        num_images: images.
        num_objects: objects that train.
        num_classes: classes.
        has_masks: whether there are masks to learn from.
        median_short_side: of the images, in pixels.
        median_long_side: likewise.
        small_object: side of a square as large as a small object, in pixels of its image: a fifth
            of the objects are smaller.
        large_object: likewise of a large one: a twentieth of the objects are larger.
        most_objects: objects of the fullest image.
    """

    num_images: int
    num_objects: int
    num_classes: int
    has_masks: bool
    median_short_side: int
    median_long_side: int
    small_object: float
    large_object: float
    most_objects: int


def detection_summary(source: DetectionSource, config: DetectionDataConfig) -> DetectionSummary:
    """Describe the images of a source that train, and their objects.

    Args:
        source: of the training images.
        config: says whether images without objects train.

    Raises:
        ValueError: if no image, or no object, is left to train on.
    """
    source = trained_images(source, config)
    counts = source.num_objects(trains=True)
    if not counts.any():
        raise ValueError(
            f"{config.path}: no object to train on; the images of at least {SMALLEST_SIDE} pixels "
            "a side have none but crowds and boxes that are empty or outside"
        )
    sizes = source.sizes()
    sides = source.box_sides()[source.table.trains[source.object_rows()]]
    return DetectionSummary(
        num_images=len(source),
        num_objects=int(counts.sum()),
        num_classes=len(source.category_ids),
        has_masks=source.has_masks,
        median_short_side=int(np.median(sizes.min(axis=1))),
        median_long_side=int(np.median(sizes.max(axis=1))),
        small_object=float(np.percentile(sides, SMALL)),
        large_object=float(np.percentile(sides, LARGE)),
        most_objects=int(counts.max()),
    )
