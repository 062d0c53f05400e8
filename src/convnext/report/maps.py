"""Feature maps and receptive fields as pictures."""

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["heat_map", "map_grid"]

Array = npt.NDArray[np.float64]


def heat_map(values: Array, colours: npt.NDArray[np.uint8]) -> Image.Image:
    """(H, W) in 0..1 through a table of 256 colours."""
    return Image.fromarray(colours[(np.clip(values, 0, 1) * 255).round().astype(np.intp)])


def map_grid(
    maps: Array, colours: npt.NDArray[np.uint8], *, most: int = 64, tile: int = 64
) -> Image.Image:
    """The first channels of a map (C, h, w), side by side, each from its minimum to its maximum.

    Args:
        maps: The channels.
        colours: 256 RGB colours.
        most: Channels shown.
        tile: Side of a channel's picture in pixels.
    """
    shown = maps[:most]
    columns = math.ceil(math.sqrt(len(shown)))
    rows = math.ceil(len(shown) / columns)
    gap = 2
    sheet = Image.new("RGB", (columns * (tile + gap) + gap, rows * (tile + gap) + gap), "white")
    for number, channel in enumerate(shown):
        low, high = channel.min(), channel.max()
        scaled = (channel - low) / (high - low) if high > low else np.zeros_like(channel)
        picture = heat_map(scaled, colours).resize((tile, tile), Image.Resampling.NEAREST)
        place = (number % columns, number // columns)
        sheet.paste(picture, (gap + place[0] * (tile + gap), gap + place[1] * (tile + gap)))
    return sheet
