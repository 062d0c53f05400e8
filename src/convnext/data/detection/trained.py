"""Which images of a detection set train."""

import numpy as np

from convnext.data.config import DetectionDataConfig
from convnext.data.detection.source import DetectionSource

SMALLEST_SIDE = 32  # smaller images do not train


def trained_images(source: DetectionSource, config: DetectionDataConfig) -> DetectionSource:
    """The images of a source that training sees.

    Left out are images with a side below 32 pixels and, unless `negatives` are wanted, those
    without any annotated object (a crowd counts as one).

    Raises:
        ValueError: if no image is left to train on.

    Source: Liu et al. 2022, Appendix A.3, whose code filters so.
    """
    keep = source.sizes().min(axis=1, initial=1 << 30) >= SMALLEST_SIDE
    if not config.negatives:
        keep &= source.num_objects() > 0
    if not keep.any():
        raise ValueError(
            f"{config.path}: no image to train on; each of the {len(source)} has no object or "
            f"a side below {SMALLEST_SIDE} pixels"
        )
    return source.subset(np.flatnonzero(keep))
