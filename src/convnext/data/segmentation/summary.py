"""What a segmentation set is like, as far as a recipe depends on it."""

from dataclasses import dataclass

import numpy as np

from convnext.data.config import SegmentationDataConfig
from convnext.data.segmentation.source import SegmentationSource
from convnext.data.segmentation.trained import trained_rows


@dataclass(frozen=True, kw_only=True)
class SegmentationSummary:
    """Counts and sizes of the images of a segmentation set that train.

    Attributes:
        num_images: images.
        num_classes: classes.
        median_short_side: of the images, in pixels.
        median_long_side: likewise.
        pixels: of each class, over all the images.
        ignored: share of the pixels that count for nothing, 0 to 1.
    """

    num_images: int
    num_classes: int
    median_short_side: int
    median_long_side: int
    pixels: tuple[int, ...]
    ignored: float


def segmentation_summary(
    source: SegmentationSource, config: SegmentationDataConfig
) -> SegmentationSummary:
    """Describe the images of a source that train, and their masks.

    Raises:
        ValueError: as `trained_images`.
    """
    rows, found = trained_rows(source, config)
    sizes, pixels = found.sizes[rows], found.pixels[rows].sum(axis=0)
    return SegmentationSummary(
        num_images=len(rows),
        num_classes=len(source.classes),
        median_short_side=int(np.median(sizes.min(axis=1))),
        median_long_side=int(np.median(sizes.max(axis=1))),
        pixels=tuple(pixels[:-1].tolist()),
        ignored=float(pixels[-1] / pixels.sum()),
    )
