"""The figure of a study, in the manner of figure 2 of "A ConvNet for the 2020s"."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from convnext.report.text import esc

__all__ = ["Bar", "road_figure"]

ROW, BAR = 26, 15
TITLE_WIDTH, COST_WIDTH, PANEL, VALUE = 250, 66, 250, 92
STYLE = (
    "text{font:13px system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans',sans-serif;fill:#1b1f24}"
    ".head{font-weight:600}.muted{fill:#59636e}.rule{stroke:#dfe2e5}"
    ".ours{fill:#2b5fa8}.paper{fill:#9aa4af}.whisker{stroke:#1b1f24;stroke-width:1.5}"
    ".hatch-ours{fill:url(#ours);stroke:#2b5fa8}.hatch-paper{fill:url(#paper);stroke:#9aa4af}"
)


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One network of the figure.

    Attributes:
        title: Words beside the bar.
        gmacs: Billions of multiply-accumulates of an image.
        top1: Top-1 in percent, None while there is none; `std` over seeds likewise.
        adopted: False hatches the bar: measured, and not built on.
        paper_top1: What the paper reached, if it has this network; `paper_std` likewise.
    """

    title: str
    gmacs: float
    top1: float | None
    std: float | None = None
    adopted: bool = True
    paper_top1: float | None = None
    paper_std: float | None = None


def road_figure(title: str, bars: Sequence[Bar]) -> str:
    """A standalone SVG: titles, cost, our bars, and the paper's beside them where it has any.

    Bars start at the lowest value less a margin, since the steps differ by little; the axis is
    labelled with its ends.
    """
    with_paper = any(bar.paper_top1 is not None for bar in bars)
    height = 64 + ROW * len(bars) + 34
    width = TITLE_WIDTH + COST_WIDTH + (PANEL + VALUE) * (2 if with_paper else 1) + 10
    left = TITLE_WIDTH + COST_WIDTH
    parts = [
        f'<text class="head" x="8" y="20">{esc(title)}</text>',
        f'<text class="muted" x="{left - 12}" y="48" text-anchor="end">GMACs</text>',
    ]
    for row, bar in enumerate(bars):
        y = 64 + ROW * row
        parts.append(
            f'<line class="rule" x1="8" x2="{width - 8}" y1="{y - 4}" y2="{y - 4}"/>'
            f'<text x="{TITLE_WIDTH - 8}" y="{y + 13}" text-anchor="end">{esc(bar.title)}</text>'
            f'<text class="muted" x="{left - 12}" y="{y + 13}" text-anchor="end">'
            f"{_cost(bar.gmacs)}</text>"
        )
    parts.append(_panel(bars, left, "ours", "this run, top-1 %", lambda b: (b.top1, b.std)))
    if with_paper:
        x = left + PANEL + VALUE
        name = "paper (ImageNet-1K), top-1 %"
        parts.append(_panel(bars, x, "paper", name, lambda b: (b.paper_top1, b.paper_std)))
    hatches = "".join(
        f'<pattern id="{name}" width="6" height="6" patternUnits="userSpaceOnUse" '
        f'patternTransform="rotate(45)"><rect width="6" height="6" fill="#fff"/>'
        f'<rect width="2.5" height="6" fill="{colour}"/></pattern>'
        for name, colour in (("ours", "#2b5fa8"), ("paper", "#9aa4af"))
    )
    note = "hatched: measured, not adopted" if not all(bar.adopted for bar in bars) else ""
    parts.append(f'<text class="muted" x="8" y="{height - 10}">{note}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label="{esc(title)}">'
        f"<style>{STYLE}</style><defs>{hatches}</defs>"
        f'<rect width="{width}" height="{height}" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _cost(gmacs: float) -> str:
    return f"{gmacs:.1f}" if gmacs >= 1 else f"{gmacs:.3f}"


def _panel(
    bars: Sequence[Bar],
    left: float,
    css: str,
    name: str,
    value: Callable[[Bar], tuple[float | None, float | None]],
) -> str:
    """The bars of one side, with whiskers of one deviation."""
    known = [(v, s or 0.0) for v, s in map(value, bars) if v is not None]
    parts = [f'<text class="muted" x="{left}" y="48">{name}</text>']
    if not known:
        return "".join(parts)
    low, high = min(v - s for v, s in known), max(v + s for v, s in known)
    low = max(0.0, low - max(0.35 * (high - low), 0.5))

    def x(v: float) -> float:
        return left + (v - low) / (high - low) * PANEL

    for row, bar in enumerate(bars):
        top1, std = value(bar)
        if top1 is None:
            continue
        y = 64 + ROW * row
        kind = css if bar.adopted else f"hatch-{css}"
        parts.append(
            f'<rect class="{kind}" x="{left}" y="{y + 1}" width="{x(top1) - left:.1f}" '
            f'height="{BAR}"/>'
        )
        text = f"{top1:.2f}"
        if std is not None:
            text += f" ± {std:.2f}"
            a, b, middle = x(top1 - std), x(top1 + std), y + 1 + BAR / 2
            parts.append(
                f'<path class="whisker" fill="none" d="M{a:.1f} {middle}H{b:.1f}'
                f'M{a:.1f} {middle - 4}v8M{b:.1f} {middle - 4}v8"/>'
            )
        end = x(top1 + (std or 0.0)) + 6
        parts.append(f'<text x="{end:.1f}" y="{y + 13}">{text}</text>')
    base = 64 + ROW * len(bars) + 12
    parts.append(
        f'<text class="muted" x="{left}" y="{base}">{low:.1f}</text>'
        f'<text class="muted" x="{left + PANEL}" y="{base}" text-anchor="end">{high:.1f}</text>'
    )
    return "".join(parts)
