"""Masks as run lengths: checked when they are read, decoded only where they are looked at."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

# A polygon may leave its image, but not by more than this many times the image's longer side.
_FAR = 10.0


def encode_mask(segmentation: object, height: int, width: int) -> bytes | None:
    """A mask in any of COCO's forms as compressed run lengths, or None where there is no mask.

    Args:
        segmentation: polygons [[x1, y1, x2, y2, ...], ...] in pixels, or
            {"size": [height, width], "counts": list of run lengths or their compressed text};
            None and [] stand for no mask.
        height: of the image, in pixels.
        width: of the image, in pixels.

    Returns:
        Compressed run lengths, column by column, of the image's size.

    Raises:
        ValueError: saying what is wrong with the mask.

    Source: Lin et al. 2014 (COCO) and its reference implementation, pycocotools.
    """
    if segmentation is None or segmentation == []:
        return None
    if isinstance(segmentation, dict):
        return _encode_runs(segmentation, height, width)
    if not isinstance(segmentation, list):
        raise ValueError(f"a mask is a list of polygons or run lengths, not {segmentation!r:.40}")
    polygons = [_polygon(part, height, width) for part in segmentation]
    # Two points are no area (and four numbers would be taken for a box).
    parts = [part for part in polygons if len(part) >= 6]
    if not parts:
        raise ValueError("none of its polygons has three points")
    return _counts(coco_mask.merge(coco_mask.frPyObjects(parts, height, width)))


def run_lengths(counts: bytes) -> NDArray[np.int64]:
    """Compressed run lengths as numbers: zeros first, then ones, in turn.

    Numbers are written five bits to a character, the lowest first; from the fourth on as the
    difference to the last but one.

    Raises:
        ValueError: if the text breaks off or holds a character that does not belong there.
    """
    symbols = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    if symbols.size == 0 or symbols.min() < 0 or symbols.max() > 63:
        raise ValueError("the compressed run lengths hold characters that do not belong there")
    last = (symbols & 32) == 0
    if not last[-1]:
        raise ValueError("the compressed run lengths break off")
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 8:
        raise ValueError("the compressed run lengths hold a number that is too large")
    place = np.arange(len(symbols)) - np.repeat(starts, lengths)
    values = np.add.reduceat((symbols & 31) << (5 * place), starts)
    values -= np.where(symbols[ends] & 16, np.int64(1) << (5 * lengths), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def decode_masks(
    rles: Sequence[bytes],
    size: tuple[int, int],
    grid: tuple[NDArray[np.int64], NDArray[np.int64]],
    out: NDArray[np.uint8],
) -> None:
    """Write the pixels `mask[rows][:, columns]` of some masks into `out`.

    Only the part within an object's bounding box is written, so `out` starts with zeros.

    Args:
        rles: n compressed masks of one image.
        size: height and width of that image, in pixels.
        grid: the rows and the columns to take, each ascending or descending.
        out: (n, rows, columns) uint8 zeros.
    """
    rows, columns = grid
    if not rles:
        return
    objects = [{"size": size, "counts": rle} for rle in rles]
    boxes = coco_mask.toBbox(objects).astype(np.int64)  # x, y, w, h; whole numbers
    height = size[0]
    for i, ((x, y, w, h), rle) in enumerate(zip(boxes.tolist(), rles, strict=True)):
        across = _span(columns, x, x + w)
        down = _span(rows, y, y + h)
        if across.start == across.stop or down.start == down.stop:
            continue
        upright = _columns(run_lengths(rle), height, x, w)
        part = upright[columns[across] - x][:, rows[down]]
        out[i, down, across] = part.T


def decode_mask(counts: bytes, height: int, width: int) -> NDArray[np.uint8]:
    """One mask as (height, width) uint8, 0 or 1."""
    return _columns(run_lengths(counts), height, 0, width).T


def _columns(runs: NDArray[np.int64], height: int, first: int, number: int) -> NDArray[np.uint8]:
    """Some neighbouring columns of a mask, as the rows of (number, height) uint8."""
    start, stop = first * height, (first + number) * height
    ends = np.cumsum(runs).clip(start, stop)
    lengths = np.diff(ends, prepend=start)
    values = (np.arange(len(runs)) & 1).astype(np.uint8)
    return np.repeat(values, lengths).reshape(number, height)


def _span(indices: NDArray[np.int64], low: int, high: int) -> slice:
    """Where monotonous indices lie in low..high-1."""
    if len(indices) and indices[0] > indices[-1]:
        back = _span(indices[::-1], low, high)
        return slice(len(indices) - back.stop, len(indices) - back.start)
    start, stop = np.searchsorted(indices, (low, high))
    return slice(int(start), int(stop))


def _polygon(part: object, height: int, width: int) -> list[float]:
    try:
        points = np.asarray(part, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError("a polygon is a list of numbers x1, y1, x2, y2, ...") from error
    if points.ndim != 1 or len(points) % 2:
        raise ValueError("a polygon is a list of numbers x1, y1, x2, y2, ...")
    # One comparison that is also false for NaN.
    if len(points) and not np.abs(points).max() <= _FAR * max(height, width):
        raise ValueError("a polygon has points far outside the image")
    values: list[float] = points.tolist()
    return values


def _encode_runs(segmentation: dict[str, Any], height: int, width: int) -> bytes:
    counts, size = segmentation.get("counts"), segmentation.get("size")
    if size is None or list(size) != [height, width]:
        raise ValueError(f"the mask is of size {size} [height, width], the image {[height, width]}")
    # The reference decoder trusts its input and writes past the end of the mask; check first.
    if isinstance(counts, str | bytes):
        text = counts.encode("ascii", "replace") if isinstance(counts, str) else counts
        runs = run_lengths(text)
    elif isinstance(counts, list):
        try:
            runs = np.asarray(counts, np.int64)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError("run lengths are whole numbers") from error
        text = b""
    else:
        raise ValueError(f"the mask has no run lengths ('counts' is {counts!r:.40})")
    if runs.ndim != 1 or (len(runs) and runs.min() < 0) or runs.sum() != height * width:
        raise ValueError(f"the run lengths of the mask do not add up to {height} x {width} pixels")
    if text:
        return text
    return _counts(
        coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    )


def _counts(rle: dict[str, Any]) -> bytes:
    counts: bytes = rle["counts"]
    return counts
