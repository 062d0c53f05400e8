"""Which images of a segmentation set train."""

import numpy as np
from numpy.typing import NDArray

from convnext.data.config import SegmentationDataConfig
from convnext.data.segmentation.source import SegmentationSource
from convnext.data.segmentation.survey import Survey, survey_masks


def trained_images(
    source: SegmentationSource, config: SegmentationDataConfig
) -> SegmentationSource:
    """The images of a source that training sees: those with a pixel that is not ignored.

    Raises:
        ValueError: if no image is left to train on; with `on_bad_image="stop"` naming the first
            mask that cannot be used.
    """
    return source.subset(trained_rows(source, config)[0])


def trained_rows(
    source: SegmentationSource, config: SegmentationDataConfig
) -> tuple[NDArray[np.int64], Survey]:
    """The positions of the images that train, and what all the masks hold; raises likewise."""
    found = survey_masks(source, skip=config.on_bad_image == "skip")
    rows = np.flatnonzero(found.pixels[:, :-1].any(axis=1))
    if not len(rows):
        raise ValueError(
            f"{config.path}: no image to train on; every pixel of the {len(found.pixels)} masks is "
            "ignored (see ignore_values, reduce_zero_label, and classes named void)"
        )
    return rows, found
