"""Words on pictures: a font that has the letters, and places where they hide little."""

import math
import unicodedata
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from convnext.report.text import shorten

__all__ = ["Colour", "LabelPlacer", "ink_on"]

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
LONGEST = 22  # of a text, in ems

# Looked for on this machine where Pillow's own font lacks a letter.
FONTS = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "NotoSansCJK.ttc"),
    *("wqy-microhei.ttc", "DroidSansFallbackFull.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc"),
    *("Arial Unicode.ttf", "msyh.ttc", "meiryo.ttc", "malgun.ttf", "arialuni.ttf", "segoeui.ttf"),
)


def ink_on(colour: Colour) -> Colour:
    """Black or white, whichever reads better on a colour (relative luminance above .18 or not)."""
    linear = [(c / 255) ** 2.2 for c in colour]
    light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if light > 0.18 else (255, 255, 255)


class LabelPlacer:
    """Writes labels at boxes, each where it covers no other; one without such a place is left out.

    Args:
        image: The RGB picture that is written on.
        size: Height of the letters in pixels.
    """

    def __init__(self, image: Image.Image, size: int) -> None:
        self._draw = ImageDraw.Draw(image)
        self._width, self._height = image.size
        self._size = size
        self._taken: list[Box] = []

    def write(self, text: str, box: Box, colour: Colour, *, larger: bool = True) -> bool:
        """Write above, in or below a box, on its colour; whether there was a place.

        Args:
            text: What to write; cut where it is long.
            box: Left, top, right, bottom in pixels.
            colour: Of the ground.
            larger: Whether a label may be larger than its box.
        """
        clean = shorten(printable(text), LONGEST)
        font = font_for(clean, self._size)
        # All labels are as high as the tallest letters, so that they stand in line.
        _, ascent, _, descent = self._draw.textbbox((0, 0), "Ág", font=font)
        left, top, right, bottom = self._draw.textbbox((0, 0), clean, font=font)
        left, top = math.floor(left), math.floor(min(top, ascent))
        right, bottom = math.ceil(right), math.ceil(max(bottom, descent))
        pad = max(2, self._size // 6)
        width, height = right - left + 2 * pad, bottom - top + 2 * pad
        x1, y1, x2, y2 = (round(v) for v in box)  # Pillow cuts letters at fractions of a pixel
        if not larger and width * height > (x2 - x1) * (y2 - y1):
            return False
        places = (
            *((x1, y1 - height), (x1, y1), (x1, y2), (x2 - width, y1 - height)),
            *((x2 - width, y1), (x2 - width, y2), (x1, y2 - height), (x2, y1)),
        )
        for place in places:
            x = min(max(place[0], 0), max(self._width - width, 0))
            y = place[1]
            if y < 0 or y + height > self._height:
                continue
            area = (x, y, x + width, y + height)
            if any(_overlap(area, other) for other in self._taken):
                continue
            self._taken.append(area)
            self._draw.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
            at = (x + pad - left, y + pad - top)
            self._draw.text(at, clean, font=font, fill=ink_on(colour))
            return True
        return False


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def printable(text: str) -> str:
    """One line without control characters and halves of surrogate pairs."""
    joined = " ".join(text.split())
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") else c for c in joined)


@lru_cache(maxsize=512)
def font_for(text: str, size: int) -> Font:
    """Pillow's own font where it has all letters, else one of this machine that has, else its own.

    Letters that no font has are drawn as empty boxes.
    """
    own = ImageFont.load_default(size)
    if text.isascii() or _has_all(own, text):
        return own
    for name in FONTS:
        try:
            other = ImageFont.truetype(name, size)
        except OSError:
            continue
        if _has_all(other, text):
            return other
    return own


def _has_all(font: Font, text: str) -> bool:
    missing = bytes(font.getmask("\U0010fffd"))
    return all(c.isspace() or bytes(font.getmask(c)) != missing for c in set(text))
