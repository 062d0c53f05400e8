"""One image of the gallery of segmentations: the picture, what is there, what was said."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from convnext.evaluate.segmentation import confusion_counts
from convnext.report.data import SegmentationExample
from convnext.report.overlay import Integers, overlay, palette

__all__ = ["segmentation_example"]

LONGER_SIDE = 560
ALPHA = 0.6


def segmentation_example(
    picture: Image.Image,
    truth: Integers,
    said: Integers,
    class_names: Sequence[str],
    *,
    name: str,
) -> SegmentationExample:
    """Draw an image three times: as it is, with its true classes, with those that were said.

    A large picture is shown smaller, a small one larger: 280 to 560 pixels along its longer side.

    Args:
        picture: The whole image, upright.
        truth: ``(H, W)`` integers 0..K-1 of the picture's size; negative where nothing counts.
        said: Likewise, without negative ones.
        class_names: ``K`` names.
        name: What the gallery calls the image.

    Raises:
        ValueError: The maps are of another size than the picture, or hold a class out of range.
    """
    k = len(class_names)
    counts = confusion_counts(said, truth, k, name=name)[:k]
    hits = counts.diagonal()
    union = counts.sum(axis=0) + counts.sum(axis=1) - hits
    there = np.flatnonzero(union)
    iou = 100 * hits[there] / union[there]
    colours = palette(k)
    order = np.argsort(-union[there], kind="stable")
    factor = LONGER_SIDE / max(picture.size)
    factor = float(int(factor)) if factor > 1 else factor  # small ones grow by a whole factor
    size = tuple(max(1, round(side * factor)) for side in picture.size)
    small = picture.convert("RGB").resize((size[0], size[1]), Image.Resampling.LANCZOS)
    rows, columns = _places(truth.shape[0], size[1]), _places(truth.shape[1], size[0])

    def drawn(mask: Integers) -> bytes:
        return _jpeg(overlay(small, mask[rows[:, None], columns], colours, ALPHA))

    return SegmentationExample(
        name=name,
        miou=float(iou.mean()) if len(there) else None,
        accuracy=100 * float(hits.sum()) / int(counts.sum()) if len(there) else None,
        classes=[
            (class_names[there[i]], tuple(colours[there[i]].tolist()), float(iou[i]))
            for i in order.tolist()
        ],
        picture=_jpeg(small),
        truth=drawn(truth),
        said=drawn(said),
    )


def _places(length: int, shown: int) -> npt.NDArray[np.intp]:
    """Which rows (or columns) of a map a smaller picture shows: those nearest to its centres."""
    places: npt.NDArray[np.intp] = ((np.arange(shown) + 0.5) * length / shown).astype(np.intp)
    return places


def _jpeg(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
