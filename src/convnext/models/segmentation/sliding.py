"""Logits of an image seen through overlapping windows, in memory that does not grow with it.

A window is moved over the image by a stride; the last ones are moved back to end at the edge.
Where windows overlap, the mean of their logits counts. The result comes in tiles, each as soon as
no further window touches it, so that the logits of a whole large image never exist.

Source: the published test configuration ("slide") of ConvNeXt's networks for ADE20K; ConvNeXt,
appendix A.3.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Tile", "Windows", "num_predictions", "slide", "whole"]

Predict = Callable[[Tensor], Tensor]
Read = Callable[[int, int, int, int], Tensor]
SUM_BYTES = 768 * 2**20  # wider images are done in parts side by side


class Tile(NamedTuple):
    """A finished part of an image.

    Attributes:
        top: first row.
        left: first column.
        logits: (K, h, w), mean over the windows that saw it; valid until the next tile is asked
            for.
    """

    top: int
    left: int
    logits: Tensor


@dataclass(frozen=True)
class Windows:
    """How an image is cut.

    Attributes:
        size: height and width of a window in pixels; less where the image has less.
        stride: pixels from one window to the next.

    Raises:
        ValueError: a value below 1, or a stride that leaves gaps.
    """

    size: int
    stride: int

    def __post_init__(self) -> None:
        if self.size < 1 or not 1 <= self.stride <= self.size:
            raise ValueError(
                f"window {self.size} with stride {self.stride}: the window must have at least 1 "
                "pixel, and the stride from 1 to the window's, so that no pixel is left out"
            )

    def along(self, length: int) -> list[range]:
        """The pixels that each window covers along a side of `length` pixels."""
        last = max(length - self.size, 0)
        starts = [min(start, last) for start in range(0, last + self.stride, self.stride)]
        return [range(start, min(start + self.size, length)) for start in dict.fromkeys(starts)]


def whole(tiles: Iterator[Tile], size: tuple[int, int]) -> Tensor:
    """The logits of a whole image, (K, H, W), from the tiles of `slide`.

    Args:
        tiles: all of them.
        size: height and width of the image.
    """
    logits: Tensor | None = None
    for tile in tiles:
        height, width = tile.logits.shape[1:]
        if (height, width) == size:
            return tile.logits
        if logits is None:
            logits = tile.logits.new_empty(len(tile.logits), *size)
        logits[:, tile.top : tile.top + height, tile.left : tile.left + width] = tile.logits
    assert logits is not None, "an image has at least one window"
    return logits


def slide(
    predict: Predict,
    read: Read,
    size: tuple[int, int],
    windows: Windows,
    num_classes: int,
    *,
    batch: int = 1,
) -> Iterator[Tile]:
    """Mean logits of an image, tile by tile.

    Images so wide that the sums of one row of windows would exceed 768 MiB are done in parts side
    by side; the windows at their seams are predicted twice, and the result is the same.

    Args:
        predict: (B, C, h, w) to logits (B, K, h, w).
        read: top, left, height and width to that part of the image, (C, h, w).
        size: height and width of the image.
        windows: how it is cut.
        num_classes: K.
        batch: windows that are predicted at once.
    """
    rows, columns = windows.along(size[0]), windows.along(size[1])
    if len(rows) == len(columns) == 1:
        yield Tile(0, 0, predict(read(0, 0, *size)[None])[0])
        return
    for strip, inside in _strips(columns, len(rows[0]), num_classes):
        yield from _strip(predict, read, rows, inside, strip, batch)


def num_predictions(
    size: tuple[int, int], windows: Windows, num_classes: int, *, batch: int = 1
) -> int:
    """How often `slide` calls `predict` for an image; arguments as there."""
    rows, columns = windows.along(size[0]), windows.along(size[1])
    strips = _strips(columns, len(rows[0]), num_classes)
    return len(rows) * sum(-(-len(inside) // batch) for _, inside in strips)


def _strips(columns: list[range], height: int, num_classes: int) -> list[tuple[range, list[range]]]:
    """Parts of the image's width, side by side, and the windows that touch each."""
    width = columns[-1].stop
    widest = max(SUM_BYTES // (4 * num_classes * height), len(columns[0]))
    strips, left = [], 0
    while left < width:
        # A part ends where a window begins, unless it holds the rest of the image.
        ends = [c.start for c in columns if left < c.start <= left + widest]
        right = width if width <= left + widest else ends[-1]
        inside = [c for c in columns if c.stop > left and c.start < right]
        strips.append((range(left, right), inside))
        left = right
    return strips


def _strip(
    predict: Predict,
    read: Read,
    rows: list[range],
    columns: list[range],
    strip: range,
    batch: int,
) -> Iterator[Tile]:
    """The tiles of the columns of pixels in `strip`, one for each row of windows."""
    sums: Tensor | None = None  # (K, height of a window, width of the strip)
    seen_across: Tensor | None = None
    seen_down = torch.zeros(rows[-1].stop)  # how many windows cover a row of pixels
    for row in rows:
        seen_down[row.start : row.stop] += 1
    for row, following in zip(rows, [*rows[1:], range(rows[-1].stop, 0)], strict=True):
        for chosen in (columns[i : i + batch] for i in range(0, len(columns), batch)):
            seen = [read(row.start, c.start, len(row), len(c)) for c in chosen]
            logits = predict(torch.stack(seen))  # (B, K, h, w)
            if sums is None:
                exact = logits.new_zeros((), dtype=torch.promote_types(logits.dtype, torch.float32))
                sums = exact.expand(logits.shape[1], len(row), len(strip)).clone()
                seen_across = _coverage(columns, strip).to(exact)
                seen_down = seen_down.to(exact)
            for column, part in zip(chosen, logits, strict=True):
                start, stop = max(column.start, strip.start), min(column.stop, strip.stop)
                place = slice(start - strip.start, stop - strip.start)
                sums[:, :, place] += part[:, :, start - column.start : stop - column.start]
        assert sums is not None
        assert seen_across is not None
        done = following.start - row.start  # rows that no later window touches
        finished = sums[:, :done]
        finished /= seen_down[row.start : following.start, None] * seen_across
        yield Tile(row.start, strip.start, finished)
        kept = len(row) - done
        for k in range(len(sums)):  # class by class: source and target overlap
            sums[k, :kept] = sums[k, done:].clone()
        sums[:, kept:] = 0


def _coverage(columns: list[range], strip: range) -> Tensor:
    """How many windows cover each column of pixels of a strip."""
    seen = torch.zeros(len(strip))
    for column in columns:
        start, stop = max(column.start, strip.start), min(column.stop, strip.stop)
        seen[start - strip.start : stop - strip.start] += 1
    return seen
