"""Text for HTML: escaping, shortening, numbers with units."""

import html
import math
import unicodedata
from typing import Any

THIN = "\u202f"  # narrow no-break space between number and unit


def esc(text: object) -> str:
    """Escape any text for HTML content and quoted attributes.

    Control characters and halves of surrogate pairs (from file names that are not UTF-8) become
    a replacement character, so that the page is always valid UTF-8.
    """
    clean = "".join(
        "\ufffd" if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" else c
        for c in str(text)
    )
    return html.escape(clean, quote=True)


def width(text: str) -> float:
    """Approximate width of a text in ems: East Asian wide characters count double."""
    return sum(1.0 if unicodedata.east_asian_width(c) in "WF" else 0.55 for c in text)


def shorten(text: str, ems: float) -> str:
    """Cut a text to at most ``ems`` ems, with an ellipsis where something was cut."""
    if width(text) <= ems:
        return text
    kept, used = "", width("…")
    for c in text:
        used += width(c)
        if used > ems:
            break
        kept += c
    return kept.rstrip() + "…"


def name_cell(name: str, colour: tuple[int, int, int] | None = None) -> str:
    """Table cell of a class name, with its colour if it has one.

    A very long name is cut; its whole text is the tooltip.
    """
    short = shorten(name, 32)
    title = f' title="{esc(name)}"' if short != name else ""
    before = chip(colour) if colour else ""
    return f'<td class="name" dir="auto" data-value="{esc(name)}"{title}>{before}{esc(short)}</td>'


def chip(colour: tuple[int, int, int]) -> str:
    """A small square of a colour, before a name."""
    return f'<i class="chip" style="background:rgb{colour}"></i>'


def integer(value: float) -> str:
    """1234567 -> "1,234,567"."""
    return f"{value:,.0f}"


def percent(value: float | None, digits: int = 1) -> str:
    """A number in percent with its unit; a dash for None."""
    return "–" if value is None else f"{value:.{digits}f}{THIN}%"


def fraction(value: float | None) -> str:
    """0.8712 -> "87.1", in percent without the unit; a dash for None."""
    return "–" if value is None else f"{100 * value:.1f}"


def quantity(value: float, unit: str = "") -> str:
    """Three significant digits with a decimal prefix: 28589128 -> "28.6 M"."""
    if not math.isfinite(value):
        return "–"
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor * 0.9995:
            return f"{_three_digits(value / factor)}{THIN}{prefix}{unit}"
    return f"{_three_digits(value)}{THIN}{unit}".rstrip(THIN)


def _three_digits(value: float) -> str:
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{digits}f}"


def duration(seconds: float) -> str:
    """453 -> "7 min 33 s"."""
    total = round(seconds)
    if total < 60:
        return f"{seconds:.1f}{THIN}s" if seconds < 10 else f"{total}{THIN}s"
    if total < 3600:
        return f"{total // 60}{THIN}min {total % 60}{THIN}s"
    if total < 48 * 3600:
        return f"{total // 3600}{THIN}h {total % 3600 // 60}{THIN}min"
    return f"{total / 86400:.1f}{THIN}days"


def plain(value: Any) -> str:
    """A recipe's value as a reader would write it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value) or "none"
    return str(value) if value != "" else "–"
