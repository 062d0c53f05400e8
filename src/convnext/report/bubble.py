"""Accuracy against cost, in the manner of figure 1 of "A ConvNet for the 2020s"."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from convnext.report.svg import Frame, axes, nice_ticks, padded
from convnext.report.text import esc

__all__ = ["Bubble", "bubble_figure"]

COLOURS = ("#2b5fa8", "#c4511d", "#3f8f5b", "#8a5aa8", "#8a7a1f", "#4f6a78", "#a83f62")
STYLE = (
    "text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans',sans-serif;fill:#1b1f24}"
    ".tick,.axis-title{fill:#59636e}.grid{stroke:#dfe2e5}.axis{stroke:#59636e}"
    ".bubble{fill-opacity:.45;stroke-width:1.5}"
)
LARGEST = 26  # radius in pixels


@dataclass(frozen=True, kw_only=True)
class Bubble:
    """One network: its place, and its parameters as area.

    Attributes:
        name: Written beside it.
        family: Networks of a family share a colour.
        x: Cost or speed.
        y: Accuracy in percent.
        params: Number of parameters.
    """

    name: str
    family: str
    x: float
    y: float
    params: int


def bubble_figure(bubbles: Sequence[Bubble], *, x_title: str, y_title: str) -> str:
    """A standalone SVG; the horizontal axis is logarithmic where values span a factor of 20."""
    span = max(b.x for b in bubbles) / min(b.x for b in bubbles)
    logarithmic = span > 20

    def place(value: float) -> float:
        return math.log10(value) if logarithmic else value

    xs, ys = [place(b.x) for b in bubbles], [b.y for b in bubbles]
    frame = Frame(
        x_range=padded(xs, share=0.14),
        y_range=padded(ys, share=0.14),
        width=760,
        height=460,
        left=58,
        right=20,
        top=20,
        bottom=46,
    )
    x_ticks = nice_ticks(*frame.x_range, 8)
    y_ticks = nice_ticks(*frame.y_range, 7)
    title = f"log10 of {x_title}" if logarithmic else x_title
    parts = [axes(frame, x_ticks=x_ticks, y_ticks=y_ticks, x_title=title, y_title=y_title)]
    families = list(dict.fromkeys(b.family for b in bubbles))
    largest = max(b.params for b in bubbles)
    for b in sorted(bubbles, key=lambda b: -b.params):
        colour = COLOURS[families.index(b.family) % len(COLOURS)]
        radius = max(3.0, LARGEST * math.sqrt(b.params / largest))
        x, y = frame.x(place(b.x)), frame.y(b.y)
        words = f"{b.name}: {b.y:g} %, {b.x:g} {x_title}, {b.params / 1e6:.1f} M parameters"
        parts.append(
            f'<circle class="bubble" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{colour}" '
            f'stroke="{colour}"><title>{esc(words)}</title></circle>'
        )
    parts += _labels(frame, bubbles, place)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {frame.width:g} {frame.height:g}" '
        f'width="{frame.width:g}" height="{frame.height:g}" role="img" '
        f'aria-label="{esc(y_title)} against {esc(x_title)}"><style>{STYLE}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _labels(frame: Frame, bubbles: Sequence[Bubble], place: Callable[[float], float]) -> list[str]:
    """Names beside the bubbles, moved down where two would lie on each other."""
    taken: list[tuple[float, float, float]] = []
    parts = []
    for b in sorted(bubbles, key=lambda b: -b.y):
        x, y = frame.x(place(b.x)) + 6, frame.y(b.y) - 6
        width = 6.4 * len(b.name)
        if x + width > frame.width - 4:
            x -= width + 12
        while any(abs(y - v) < 13 and x < u + w and u < x + width for u, v, w in taken):
            y += 13
        taken.append((x, y, width))
        parts.append(f'<text x="{x:.1f}" y="{y:.1f}">{esc(b.name)}</text>')
    return parts
