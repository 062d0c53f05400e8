"""What a data set looks like at a glance: counts, and sizes from the headers of a few images."""

from dataclasses import dataclass

import numpy as np

from convnext.data.config import DataConfig
from convnext.data.decode import GREY_MODES, read_header
from convnext.data.splits import Splits

_SAMPLE = 64


@dataclass(frozen=True)
class DataSummary:
    """Counts of a data set, and typical properties of its images.

    Attributes:
        class_counts: training images of each class.
        median_width: in pixels, of a sample of training images; likewise `median_height`.
        grey: whether every image of the sample is stored without colour.
    """

    num_train: int
    num_val: int
    num_test: int
    classes: tuple[str, ...]
    class_counts: tuple[int, ...]
    median_width: int
    median_height: int
    grey: bool


def summarise(splits: Splits, config: DataConfig) -> DataSummary:
    """Summarise opened splits; reads only the headers of up to 64 evenly spaced training images.

    Raises:
        ValueError: if none of the sampled images can be read.
    """
    headers = []
    reasons = []
    places = np.linspace(0, len(splits.train) - 1, min(_SAMPLE, len(splits.train)))
    for i in np.unique(places.astype(int)).tolist():
        try:
            headers.append(read_header(splits.train.open(i), name=splits.train.name(i)))
        except (OSError, ValueError) as error:
            reasons.append(str(error))
    if not headers:
        raise ValueError(f"{config.path}: none of the images can be read; {reasons[0]}")
    counts = np.bincount(splits.train.labels, minlength=len(splits.classes))
    return DataSummary(
        num_train=len(splits.train),
        num_val=len(splits.val) if splits.val is not None else 0,
        num_test=len(splits.test) if splits.test is not None else 0,
        classes=splits.classes,
        class_counts=tuple(counts.tolist()),
        median_width=int(np.median([header.width for header in headers])),
        median_height=int(np.median([header.height for header in headers])),
        grey=all(header.mode in GREY_MODES for header in headers),
    )
