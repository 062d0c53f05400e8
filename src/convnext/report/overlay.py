"""Maps of classes as colours over a picture, and as images of class numbers."""

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from convnext.report.drawing import PALETTE, Pixels

__all__ = ["IGNORED_COLOUR", "index_image", "overlay", "palette"]

Integers = npt.NDArray[np.integer]
IGNORED_COLOUR = (150, 150, 150)
STRIP = 2**18  # pixels at a time
EDGE = 0.95  # how much of a class's colour covers the picture at its border
STRIPES = (0.8, 0.3)  # likewise, in turn, of grey where nothing counts
SEEDS = 8  # colours of `drawing.PALETTE`; its last two are like its first two
MOST_COLOURS = 512  # colours repeat after these: more cannot be told apart
MAX_INDEXED = 256  # classes that fit one byte a pixel


def palette(num_classes: int) -> Pixels:
    """Colours that are far apart, the same for a class whatever the number of classes.

    The first eight are those of `drawing.PALETTE`; each further one is, of a grid of colours that
    are neither grey nor nearly black or white, the one whose nearest neighbour among those before
    it is farthest in Oklab. After 512 they repeat.

    Args:
        num_classes: ``K``.

    Returns:
        ``(K, 3)`` uint8 RGB.

    Source of the colour space: Ottosson, "A perceptual color space for image processing", 2020.
    """
    chosen = _distinct(min(max(num_classes, 1), MOST_COLOURS))
    rows: Pixels = chosen[np.arange(num_classes) % len(chosen)]
    return rows


@lru_cache(maxsize=8)
def _distinct(number: int) -> Pixels:
    levels = np.linspace(0, 255, 16).round()
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = _oklab(grid)
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    usable = (chroma > 0.07) & (lab[:, 0] > 0.48) & (lab[:, 0] < 0.9)
    grid, lab = grid[usable], lab[usable]
    chosen = [np.array(colour, dtype=np.float64) for colour in PALETTE[: min(SEEDS, number)]]
    nearest = np.full(len(grid), np.inf)
    for colour in _oklab(np.array(chosen)):
        nearest = np.minimum(nearest, np.linalg.norm(lab - colour, axis=1))
    while len(chosen) < number:
        best = int(nearest.argmax())
        chosen.append(grid[best])
        nearest = np.minimum(nearest, np.linalg.norm(lab - lab[best], axis=1))
    return np.array(chosen).astype(np.uint8)


def _oklab(rgb: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(n, 3) sRGB in 0..255 to lightness and two opponent colours; distances there are seen."""
    share = rgb / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    cones = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    opponents = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    lab: npt.NDArray[np.float64] = np.cbrt(linear @ cones.T) @ opponents.T
    return lab


def overlay(
    picture: Image.Image, mask: Integers, colours: npt.NDArray[np.uint8], alpha: float = 0.5
) -> Image.Image:
    """Lay the colours of a map's classes over a picture, with thin lines where classes meet.

    Pixels that do not count are hatched in grey. The work is done in strips: beside the result
    itself, little memory is needed however large the picture is.

    Args:
        picture: Any mode; it is left as it is.
        mask: ``(H, W)`` integers 0..K-1 of the picture's size; negative where nothing counts.
        colours: ``(K, 3)`` uint8, such as `palette`.
        alpha: How much of the colours covers the picture, 0..1.

    Returns:
        An RGB picture of the same size.

    Raises:
        ValueError: The map has another size than the picture, or holds a class without a colour.
    """
    if mask.shape != (picture.height, picture.width):
        raise ValueError(
            f"a map of {mask.shape} for a picture of {(picture.height, picture.width)} "
            "(height, width)"
        )
    if mask.size and int(mask.max()) >= len(colours):
        raise ValueError(
            f"the map holds class {int(mask.max())}, but there are {len(colours)} colours"
        )
    height, width = mask.shape
    line = max(1, round(math.sqrt(height * width) / 1500))
    result = Image.new("RGB", picture.size)
    table = np.concatenate([colours, [IGNORED_COLOUR]]).astype(np.uint16)  # the last is that of -1
    rows = max(1, STRIP // max(width, 1))
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        above, below = max(top - line, 0), min(bottom + line, height)
        index = np.maximum(mask[above:below].astype(np.int32), -1)
        inner = slice(top - above, bottom - above)
        share = _shares(index, alpha, line, above)[inner, :, None]  # of 256
        ground = np.asarray(picture.crop((0, top, width, bottom)).convert("RGB"), dtype=np.uint16)
        mixed = ground * (256 - share) + table[index[inner]] * share + 128
        result.paste(Image.fromarray((mixed >> 8).astype(np.uint8)), (0, top))
    return result


def _shares(index: Integers, alpha: float, line: int, top: int) -> npt.NDArray[np.uint16]:
    """How much of the colours covers each pixel, of 256.

    Args:
        index: ``(h, W)`` classes, -1 where nothing counts.
        alpha: Inside a region.
        line: Width of its border.
        top: Number of the first row, so that stripes go on from strip to strip.
    """
    share = np.full(index.shape, round(256 * alpha), dtype=np.uint16)
    edge = np.zeros(index.shape, dtype=np.bool_)
    across, along = index[1:] != index[:-1], index[:, 1:] != index[:, :-1]
    edge[1:] |= across
    edge[:-1] |= across
    edge[:, 1:] |= along
    edge[:, :-1] |= along
    for _ in range(line - 1):
        edge = _grown(edge)
    share[edge] = round(256 * EDGE)
    rows, columns = np.nonzero(index < 0)
    stripe = (rows + top + columns) // (4 * line) % 2
    share[rows, columns] = np.where(stripe == 0, *(round(256 * s) for s in STRIPES))
    return share


def _grown(edge: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    grown = edge.copy()
    grown[1:] |= edge[:-1]
    grown[:-1] |= edge[1:]
    grown[:, 1:] |= edge[:, :-1]
    grown[:, :-1] |= edge[:, 1:]
    return grown


def index_image(mask: Integers, num_classes: int) -> Image.Image:
    """A map as an image whose values are the classes.

    Args:
        mask: ``(H, W)`` integers 0..K-1; negative where nothing counts.
        num_classes: ``K``.

    Returns:
        Up to 256 classes mode P, with the colours of `palette`; beyond, mode I;16. Pixels that do
        not count have the largest value, 255 or 65535.

    Raises:
        ValueError: A class out of range, or one whose number says that pixels do not count.
    """
    wide = num_classes > MAX_INDEXED
    kind, ignored = (np.uint16, 65535) if wide else (np.uint8, 255)
    if mask.size and int(mask.max()) >= min(num_classes, ignored + 1):
        raise ValueError(f"the map holds class {int(mask.max())}, outside 0..{num_classes - 1}")
    values = mask.astype(kind)
    nothing = mask < 0
    if num_classes > ignored and nothing.any() and (values[~nothing] == ignored).any():
        raise ValueError(f"class {ignored} cannot be told from pixels that do not count")
    values[nothing] = ignored
    image = Image.fromarray(values)
    if not wide:
        colours = palette(num_classes)
        rest = np.tile(np.array([IGNORED_COLOUR], dtype=np.uint8), (MAX_INDEXED - num_classes, 1))
        image.putpalette(np.concatenate([colours, rest]).tobytes())
    return image
