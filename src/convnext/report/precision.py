"""Precision over recall: means over the classes, and classes beside each other."""

from collections.abc import Sequence

from convnext.evaluate.coco_result import DetectionResult, Floats, PRCurves
from convnext.report.svg import Frame, axes, picture, polyline
from convnext.report.text import esc, shorten

__all__ = ["precision_curves", "spark"]

Line = tuple[str, str, Floats]  # name, class in the style sheet, precision at 101 recalls
TICKS = [0.0, 0.25, 0.5, 0.75, 1.0]
MAX_LINES = 8  # as many colours as the style sheet has


def precision_curves(result: DetectionResult) -> str:
    """Panels of boxes, of masks, and of each class while they are few; empty without objects."""
    panels = [_panel("Boxes", _means(result.box_curves, "c-val"))]
    if result.mask_curves is not None:
        panels.append(_panel("Masks", _means(result.mask_curves, "c-mask")))
    if 1 < result.num_classes <= MAX_LINES:
        found = (result.box_curves.of_class(k, iou=0.5) for k in range(result.num_classes))
        lines = [
            (shorten(name, 14), f"series k{k}", line)
            for k, (name, line) in enumerate(zip(result.class_names, found, strict=True))
            if line is not None
        ]
        panels.append(_panel("Boxes by class, IoU .50", lines))
    drawn = "".join(panels)
    return f'<div class="panels">{drawn}</div>' if drawn else ""


def spark(curves: PRCurves, label: int) -> str:
    """A curve at IoU .50 without axes, for a table; empty text for a class without objects."""
    line = curves.of_class(label, iou=0.5)
    if line is None:
        return ""
    points = " ".join(
        f"{1 + 0.74 * i:.0f},{23 - 22 * p:.1f}"
        for i, p in enumerate(line.tolist())
        if i % 5 == 0  # 21 points are enough for 76 pixels
    )
    return (
        '<svg class="spark" viewBox="0 0 76 24" aria-hidden="true">'
        f'<rect x="0.5" y="0.5" width="75" height="23"/><polyline points="{points}"/></svg>'
    )


def _means(curves: PRCurves, css: str) -> list[Line]:
    named = (("IoU .75", "c-train", curves.mean(iou=0.75)), ("IoU .50", css, curves.mean(iou=0.5)))
    return [(name, style, line) for name, style, line in named if line is not None]


def _panel(title: str, lines: Sequence[Line]) -> str:
    if not lines:
        return ""
    frame = Frame(x_range=(0.0, 1.0), y_range=(0.0, 1.0), right=16)
    content = axes(frame, x_ticks=TICKS, y_ticks=TICKS, x_title="recall", y_title="precision")
    for _, css, line in lines:
        points = [(i / (len(line) - 1), p) for i, p in enumerate(line.tolist())]
        content += polyline(frame, points, css)
    legend = "".join(
        f'<span class="key {css}" dir="auto">{esc(name)}</span>' for name, css, _ in lines[::-1]
    )
    return (
        f"<figure><figcaption><b>{esc(title)}</b>{legend}</figcaption>"
        f"{picture(frame, f'Precision over recall, {title}', content)}</figure>"
    )
