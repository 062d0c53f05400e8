"""The confusion matrix as a picture (up to 100 classes) and the most confused pairs as a table."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from convnext.evaluate.result import ClassificationResult, most_confused
from convnext.evaluate.segmentation_result import SegmentationResult
from convnext.report.text import esc, integer, name_cell, percent, shorten, width

__all__ = [
    "MAX_CLASSES",
    "Confusion",
    "confused_pairs",
    "confusion_matrix",
    "of_images",
    "of_pixels",
]

MAX_CLASSES = 100
NUMBERED = 20  # up to here each cell holds its count and the column labels lean
PAGE_WIDTH = 1110
LABEL_EMS = 15


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """What was taken for what.

    Attributes:
        class_names: ``K`` names.
        pairs: ``(P, 3)`` int64 rows (true, said, count), those that are not zero.
        totals: ``K`` counts of the true classes.
        unit: What is counted: "images" or "pixels".
    """

    class_names: Sequence[str]
    pairs: npt.NDArray[np.int64] = field(repr=False)
    totals: Sequence[int] = field(repr=False)
    unit: str

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def cell(self, count: int, share: float) -> str:
        """What a cell says: images are counted, of pixels the percentage is told."""
        if self.unit == "images":
            return integer(count)
        return "" if share < 0.005 else f"{100 * share:.0f}"


def of_images(result: ClassificationResult) -> Confusion:
    """The confusions of a classifier."""
    return Confusion(
        class_names=result.class_names,
        pairs=result.confusion_pairs,
        totals=[score.count for score in result.per_class],
        unit="images",
    )


def of_pixels(result: SegmentationResult) -> Confusion:
    """The confusions of a segmenter."""
    return Confusion(
        class_names=result.class_names,
        pairs=result.confusion_pairs,
        totals=result.pixels,
        unit="pixels",
    )


def confusion_matrix(result: Confusion) -> str:
    """Matrix with true classes as rows; colour is the share of the row, blue right, orange wrong.

    Empty text beyond 100 classes, where nothing could be read any more.
    """
    k = result.num_classes
    if k > MAX_CLASSES:
        return ""
    lean = k <= NUMBERED
    font = 12 if k <= 60 else 9
    names = [shorten(name, LABEL_EMS) for name in result.class_names]
    margin = max(max(map(width, names)) * font, 3 * font) + 12
    left = top = margin + 22
    overhang = 0.6 * margin if lean else 8  # of the last leaning label
    cell = min((PAGE_WIDTH - left - overhang) / k, max(44, 120 - 22 * k) if lean else 24)
    side = k * cell
    parts = [
        f'<text class="axis-title" x="{left + side / 2:.1f}" y="14" text-anchor="middle">'
        "predicted class</text>",
        f'<text class="axis-title" transform="translate(13 {top + side / 2:.1f}) rotate(-90)" '
        'text-anchor="middle">true class</text>',
        f'<rect class="frame" x="{left:.1f}" y="{top:.1f}" width="{side:.1f}" '
        f'height="{side:.1f}"/>',
    ]
    for i, (name, full) in enumerate(zip(names, result.class_names, strict=True)):
        centre = (i + 0.5) * cell + font / 3
        label = f"<title>{esc(full)}</title>{esc(name)}"
        parts.append(
            f'<text style="font-size:{font}px" x="{left - 8:.1f}" y="{top + centre:.1f}" '
            f'text-anchor="end">{label}</text>'
            f'<text style="font-size:{font}px" transform="translate({left + centre:.1f} '
            f'{top - 8:.1f}) rotate({-55 if lean else -90})">{label}</text>'
        )
    parts += _cells(result, left, top, cell)
    return (
        f'<div class="scroll"><svg width="{left + side + overhang:.0f}" '
        f'height="{top + side + 2:.0f}" role="img" aria-label="Confusion matrix of {k} classes">'
        f"{''.join(parts)}</svg></div>"
    )


def _cells(result: Confusion, left: float, top: float, cell: float) -> list[str]:
    parts = []
    gap = 1 if cell < 20 else 2
    for true, pred, count in result.pairs.tolist():
        share = count / result.totals[true]
        x, y = left + pred * cell, top + true * cell
        kind = "hit" if true == pred else "miss"
        said = f"{result.class_names[true]} → {result.class_names[pred]}: {integer(count)}"
        parts.append(
            f'<rect class="{kind}" x="{x + gap / 2:.1f}" y="{y + gap / 2:.1f}" '
            f'width="{cell - gap:.1f}" height="{cell - gap:.1f}" '
            f'fill-opacity="{0.08 + 0.92 * share:.3f}">'
            f"<title>{esc(said)} ({percent(100 * share)} of the true class)</title></rect>"
        )
        if result.num_classes <= NUMBERED:
            strong = " strong" if share > 0.65 else ""
            parts.append(
                f'<text class="count{strong}" x="{x + cell / 2:.1f}" y="{y + cell / 2 + 5:.1f}" '
                f'text-anchor="middle">{esc(result.cell(count, share))}</text>'
            )
    return parts


def confused_pairs(result: Confusion, limit: int) -> str:
    """Table of the most frequent confusions; empty text when there is none."""
    pairs = most_confused(result.pairs, limit)
    if not pairs:
        return ""
    rows = "".join(
        f"<tr>{name_cell(result.class_names[true])}{name_cell(result.class_names[pred])}"
        f'<td class="num">{integer(count)}</td>'
        f'<td class="num">{100 * count / result.totals[true]:.1f}</td></tr>'
        for true, pred, count in pairs
    )
    return (
        '<div class="scroll pairs"><table><caption>Most confused pairs</caption><thead><tr>'
        "<th>true class</th><th>taken for</th>"
        f'<th class="num">{result.unit}</th><th class="num">% of class</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
