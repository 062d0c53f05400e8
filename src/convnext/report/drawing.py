"""Detections drawn on a picture: boxes, masks, names and scores."""

import colorsys
import math
import zlib
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from convnext.report.labels import Colour, LabelPlacer

__all__ = ["class_colour", "draw_detections"]

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
CROWD = 20  # with more objects, those smaller than their label go without
LEAST_SIDE = 480  # a picture whose longer side is below that is enlarged
EDGE = 0.9  # how much of a mask's colour covers the picture at its edge

# Apart from each other in hue and lightness, and from most photographs.
PALETTE: tuple[Colour, ...] = (
    *((255, 92, 57), (38, 145, 255), (62, 205, 94), (255, 201, 40), (187, 107, 255)),
    *((0, 214, 214), (255, 94, 186), (166, 224, 32), (255, 143, 92), (122, 148, 255)),
)


def class_colour(label: int) -> Colour:
    """The colour of a class: ten fixed ones, then hues a golden angle apart."""
    if label < len(PALETTE):
        return PALETTE[label]
    hue = label * 0.6180339887498949 % 1
    bright, full = ((1.0, 0.75), (0.8, 0.95), (0.95, 0.5))[label % 3]
    red, green, blue = (round(255 * c) for c in colorsys.hsv_to_rgb(hue, full, bright))
    return red, green, blue


def draw_detections(
    picture: Image.Image,
    boxes: npt.ArrayLike,
    names: Sequence[str],
    scores: Sequence[float] | None = None,
    masks: Iterable[Mask] | None = None,
    *,
    colours: Sequence[Colour] | None = None,
    veil: float = 0.38,
) -> Image.Image:
    """Draw objects; the picture itself is left as it is.

    Lines and letters grow with the picture. A small picture is enlarged by a whole factor, so that
    its longer side has 480 pixels or more and names can be read. Names go where they cover no
    other name, those that come first before those that come later; among more than 20 objects,
    small ones go without.

    Args:
        picture: Any mode and size.
        boxes: ``(n, 4)`` x1, y1, x2, y2 in pixels of the picture; parts outside are cut off.
        names: ``n`` texts; an empty one draws no label.
        scores: ``n`` confidences that are written behind the names.
        masks: ``n`` masks ``(H, W)`` of the picture's size, taken one after the other.
        colours: ``n`` colours, such as `class_colour` of the classes; by default each name has
            its own.
        veil: How much of a mask's colour covers the picture, 0..1.

    Returns:
        An RGB picture.

    Raises:
        ValueError: Texts, scores, masks or colours are not as many as boxes, or a mask is of
            another size than the picture.
    """
    rows = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    for what, values in (("names", names), ("scores", scores), ("colours", colours)):
        if values is not None and len(values) != len(rows):
            raise ValueError(f"{len(values)} {what} for {len(rows)} boxes")
    if colours is None:
        colours = [class_colour(zlib.crc32(n.encode("utf-8", "replace")) % 997) for n in names]
    image = picture.convert("RGB")
    if masks is not None:
        image = _with_masks(image, masks, colours, veil)
    factor = math.ceil(LEAST_SIDE / max(image.size))
    if factor > 1:
        size = (image.width * factor, image.height * factor)
        image = image.resize(size, Image.Resampling.BICUBIC)
    shapes = _visible(rows * factor, image.size)
    side = math.sqrt(image.width * image.height)
    line, draw = max(2, round(side / 280)), ImageDraw.Draw(image)
    for number in sorted(shapes, reverse=True):  # the first, which is the surest, on top
        _box(draw, shapes[number], colours[number], line)
    labels = LabelPlacer(image, max(12, round(side / 42)))
    for number, shape in shapes.items():
        text = names[number]
        if text and scores is not None:
            text = f"{text} {scores[number]:.2f}"
        if text:
            labels.write(text, shape, colours[number], larger=len(shapes) <= CROWD)
    return image


def _visible(
    boxes: npt.NDArray[np.float64], size: tuple[int, int]
) -> dict[int, tuple[float, float, float, float]]:
    """Boxes cut to the picture by number; those that lie outside of it are left out."""
    width, height = size
    found = {}
    for number, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        if x2 >= x1 and y2 >= y1 and x2 >= 0 and y2 >= 0 and x1 < width and y1 < height:
            right, bottom = min(x2, width) - 1, min(y2, height) - 1
            left, top = min(max(x1, 0), width - 1), min(max(y1, 0), height - 1)
            found[number] = (left, top, max(right, left), max(bottom, top))
    return found


def _box(
    draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float], colour: Colour, line: int
) -> None:
    """A frame with a thin dark rim, so that it shows on a ground of its own colour."""
    x1, y1, x2, y2 = (round(v) for v in box)
    draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=(0, 0, 0), width=1)
    draw.rectangle((x1, y1, x2, y2), outline=colour, width=line)


def _with_masks(
    image: Image.Image, masks: Iterable[Mask], colours: Sequence[Colour], veil: float
) -> Image.Image:
    """Masks as a veil with a firm edge; only the part of the picture that a mask covers is read."""
    pixels: Pixels = np.array(image)
    line = max(1, round(math.sqrt(image.width * image.height) / 500))
    count = 0
    for mask in masks:
        if mask.shape != pixels.shape[:2]:
            raise ValueError(
                f"a mask of {mask.shape} for a picture of {pixels.shape[:2]} (height, width)"
            )
        if count == len(colours):
            raise ValueError(f"more masks than the {len(colours)} boxes")
        colour = np.array(colours[count], dtype=np.float32)
        count += 1
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            continue
        part = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        inside = mask[part].astype(np.bool_)
        share = np.where(inside, np.float32(veil), np.float32(0))
        share[inside & ~_shrunk(inside, line)] = EDGE
        ground = pixels[part].astype(np.float32)
        pixels[part] = np.rint(ground + share[..., None] * (colour - ground)).astype(np.uint8)
    if count != len(colours):
        raise ValueError(f"{count} masks for {len(colours)} boxes")
    return Image.fromarray(pixels)


def _shrunk(mask: Mask, by: int) -> Mask:
    """The pixels of a mask that are further than `by` from its outside."""
    padded = np.pad(mask, by)
    for _ in range(by):
        inner = padded.copy()
        inner[1:] &= padded[:-1]
        inner[:-1] &= padded[1:]
        inner[:, 1:] &= padded[:, :-1]
        inner[:, :-1] &= padded[:, 1:]
        padded = inner
    shrunk: Mask = padded[by:-by, by:-by]
    return shrunk
