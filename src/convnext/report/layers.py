"""One number for each layer, as lines over depth."""

from collections.abc import Mapping, Sequence

from convnext.report.svg import Frame, axes, nice_ticks, padded
from convnext.report.text import esc

__all__ = ["layer_figure"]

COLOURS = ("#2b5fa8", "#c4511d", "#3f8f5b", "#8a5aa8")
STYLE = (
    "text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans',sans-serif;fill:#1b1f24}"
    ".tick,.axis-title{fill:#59636e}.grid{stroke:#dfe2e5}.axis{stroke:#59636e}"
    ".line{fill:none;stroke-width:2}"
)


def layer_figure(lines: Mapping[str, Sequence[float]], *, title: str, y_title: str) -> str:
    """A standalone SVG with one line for each name, over the number of the block."""
    longest = max(len(values) for values in lines.values())
    values = [v for line in lines.values() for v in line]
    frame = Frame(
        x_range=(0.5, longest + 0.5),
        y_range=padded([0.0, *values]),
        width=620,
        height=340,
        left=58,
        top=36,
    )
    ticks = [t for t in nice_ticks(1, longest, 8) if t == int(t)] if longest > 1 else [1.0]
    parts = [
        axes(
            frame,
            x_ticks=ticks,
            y_ticks=nice_ticks(*frame.y_range, 6),
            x_title="block",
            y_title=y_title,
        ),
        f'<text x="58" y="20" font-weight="600">{esc(title)}</text>',
    ]
    below = frame.height - frame.bottom - 24  # where distances, which are near a half, are not
    for number, (name, line) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = [(frame.x(i), frame.y(v)) for i, v in enumerate(line, 1)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline class="line" stroke="{colour}" points="{path}"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
        x = frame.width - frame.right - 8
        parts.append(
            f'<text x="{x}" y="{below - 14 * number:g}" text-anchor="end" '
            f'style="fill:{colour}">{esc(name)}</text>'
        )
    size = f"{frame.width:g} {frame.height:g}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" width="{frame.width:g}" '
        f'height="{frame.height:g}" role="img" aria-label="{esc(title)}"><style>{STYLE}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )
