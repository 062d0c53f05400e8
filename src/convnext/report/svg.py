"""A small plotting frame: value to pixel, ticks, axes. Colours come from the page's CSS classes."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from convnext.report.text import esc


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A picture in pixels, its margins, and the ranges of values between them."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    width: float = 340
    height: float = 240
    left: float = 52
    right: float = 14
    top: float = 12
    bottom: float = 42

    def x(self, value: float) -> float:
        """Pixel of a value on the horizontal axis."""
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        """Pixel of a value on the vertical axis, which points up."""
        low, high = self.y_range
        span = self.height - self.top - self.bottom
        return self.height - self.bottom - (value - low) / (high - low) * span


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """Round values (steps of 1, 2 or 5) within ``low..high``, about ``count`` of them."""
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def padded(values: Iterable[float], *, share: float = 0.06) -> tuple[float, float]:
    """The range of some values, a little wider, and never empty."""
    finite = list(values)
    low, high = min(finite), max(finite)
    if high - low < 1e-12:
        margin = abs(high) * 0.1 or 1.0
        return low - margin, high + margin
    return low - share * (high - low), high + share * (high - low)


def tick_label(value: float) -> str:
    """Short text of a tick: 12000 -> "12k", 0.004 -> "0.004", 1e-06 -> "1e-6"."""
    for factor, suffix in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= 10 * factor or (abs(value) >= factor and value % factor == 0):
            return f"{value / factor:g}{suffix}"
    if value != 0 and abs(value) < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:g}"


def axes(
    frame: Frame,
    *,
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    x_title: str,
    y_title: str = "",
) -> str:
    """Grid lines, tick labels, base line and titles of both axes."""
    right, base = frame.width - frame.right, frame.height - frame.bottom
    parts = []
    for value in y_ticks:
        y = frame.y(value)
        parts.append(
            f'<line class="grid" x1="{frame.left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(
            f'<text class="tick" x="{frame.left - 6}" y="{y + 4:.1f}" text-anchor="end">'
            f"{esc(tick_label(value))}</text>"
        )
    for value in x_ticks:
        x = frame.x(value)
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{base}" y2="{base + 4}"/>')
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{base + 17}" text-anchor="middle">'
            f"{esc(tick_label(value))}</text>"
        )
    parts.append(f'<line class="axis" x1="{frame.left}" x2="{right}" y1="{base}" y2="{base}"/>')
    middle = (frame.left + right) / 2
    parts.append(
        f'<text class="axis-title" x="{middle:.1f}" y="{frame.height - 4}" text-anchor="middle">'
        f"{esc(x_title)}</text>"
    )
    if y_title:
        centre = (frame.top + base) / 2
        parts.append(
            f'<text class="axis-title" transform="translate(13 {centre:.1f}) rotate(-90)" '
            f'text-anchor="middle">{esc(y_title)}</text>'
        )
    return "".join(parts)


def polyline(frame: Frame, points: Sequence[tuple[float, float]], css: str) -> str:
    """A line through points; a single point becomes a dot."""
    if len(points) == 1:
        x, y = points[0]
        return f'<circle class="dot {css}" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="3"/>'
    path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)
    return f'<polyline class="line {css}" points="{path}"/>'


def picture(frame: Frame, label: str, content: str) -> str:
    """An inline SVG as wide as its container, with an accessible name."""
    return (
        f'<svg class="chart" viewBox="0 0 {frame.width:g} {frame.height:g}" role="img" '
        f'aria-label="{esc(label)}">{content}</svg>'
    )
