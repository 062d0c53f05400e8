"""Where the classes of pixels go: a table of areas, maps, pictures with colours, lines."""

import csv
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convnext.data.files import Unreadable
from convnext.data.segmentation.raster import LARGE, ClassRaster, Raster
from convnext.data.segmentation.scene import Scene
from convnext.report.overlay import index_image, overlay, palette

__all__ = ["CsvAreas", "Lines", "Maps", "Painter", "Pictures", "Segmented", "Sink"]

Painter = Callable[[int, int, NDArray[np.int16]], None]  # top, left and classes of a part
MOST_NAMED = 5  # classes in a line
LEAST_NAMED = 0.001  # of the pixels


class Segmented(NamedTuple):
    """The classes of one image.

    Attributes:
        name: The file.
        pixels: Of each class.
        pixel_area: Square metres of a pixel, if known.
    """

    name: str
    pixels: tuple[int, ...]
    pixel_area: float | None


class Sink:
    """Where the classes of images go."""

    def painter(self, scene: Scene, number: int, stack: ExitStack) -> Painter | None:
        """What takes the parts of an image, if anything does.

        Args:
            scene: The image.
            number: From 1 on; names of files may repeat in folders.
            stack: Ends after the last part, or with the error that ends it before.
        """
        return None

    def add(self, found: Segmented) -> None:
        """Take the areas of one image, after its parts."""

    def unreadable(self, bad: Unreadable) -> None:
        """Take a file that could not be read."""


class CsvAreas(Sink):
    """A table with one row for each image and class: image, class, pixels, share, area_m2, error.

    Shares are of the pixels that have data.
    """

    def __init__(self, file: TextIO, labels: Sequence[str]) -> None:
        self._labels = labels
        self._writer = csv.writer(file)
        self._writer.writerow(("image", "class", "pixels", "share", "area_m2", "error"))

    def add(self, found: Segmented) -> None:
        """Write the rows of one image."""
        total = max(sum(found.pixels), 1)
        for label, pixels in zip(self._labels, found.pixels, strict=True):
            area = "" if found.pixel_area is None else f"{pixels * found.pixel_area:.10g}"
            row = (found.name, label, pixels, f"{pixels / total:.6f}", area, "")
            self._writer.writerow(row)

    def unreadable(self, bad: Unreadable) -> None:
        """Write a row that holds the error only."""
        self._writer.writerow((bad.name, "", "", "", "", bad.reason))


class Lines(Sink):
    """A line for each image with its most frequent classes."""

    def __init__(self, say: Callable[[str], None], labels: Sequence[str]) -> None:
        self._say, self._labels = say, labels

    def add(self, found: Segmented) -> None:
        """Say the line."""
        total = max(sum(found.pixels), 1)
        shares = sorted(((n / total, -k) for k, n in enumerate(found.pixels)), reverse=True)
        named = [(s, k) for s, k in shares[:MOST_NAMED] if s >= LEAST_NAMED]
        words = ", ".join(f"{self._labels[-k]} {100 * s:.1f} %" for s, k in named)
        self._say(f"{found.name}: {words or 'no data'}")


class Maps(Sink):
    """Maps of classes, numbered as the images come: PNG, of rasters GeoTIFF."""

    def __init__(self, folder: Path, labels: Sequence[str]) -> None:
        self._folder, self._labels = folder, labels

    def painter(self, scene: Scene, number: int, stack: ExitStack) -> Painter:
        """See `Sink`."""
        stem = f"{number:06d}_{Path(scene.name).stem}"
        if isinstance(scene, Raster):
            colours = palette(len(self._labels))
            path = self._folder / f"{stem}.tif"
            return stack.enter_context(ClassRaster(path, scene, colours, self._labels)).write
        canvas = _Canvas(scene.size, 1)
        stack.push(lambda kind, *_: self._save(canvas, stem) if kind is None else None)
        return canvas.paint

    def _save(self, canvas: "_Canvas", stem: str) -> None:
        image = index_image(canvas.classes, len(self._labels))
        save_png(image, self._folder / f"{stem}.png")


class Pictures(Sink):
    """Pictures with the colours of classes, numbered alike; of large ones smaller ones."""

    def __init__(self, folder: Path, labels: Sequence[str]) -> None:
        self._folder, self._labels = folder, labels

    def painter(self, scene: Scene, number: int, stack: ExitStack) -> Painter:
        """See `Sink`."""
        height, width = scene.size
        canvas = _Canvas(scene.size, max(1, math.ceil(math.sqrt(height * width / LARGE))))
        path = self._folder / f"{number:06d}_{Path(scene.name).stem}.png"
        stack.push(lambda kind, *_: self._save(canvas, scene, path) if kind is None else None)
        return canvas.paint

    def _save(self, canvas: "_Canvas", scene: Scene, path: Path) -> None:
        picture = scene.reduced(canvas.step)
        save_png(overlay(picture, canvas.classes, palette(len(self._labels))), path)


class _Canvas:
    """Every `step`-th row and column of a map, put together from its parts."""

    def __init__(self, size: tuple[int, int], step: int) -> None:
        self.step = step
        self.classes = np.full([-(-side // step) for side in size], -1, np.int16)

    def paint(self, top: int, left: int, classes: NDArray[np.int16]) -> None:
        """Take a part."""
        step = self.step
        part = classes[-top % step :: step, -left % step :: step]
        y, x = -(-top // step), -(-left // step)
        self.classes[y : y + part.shape[0], x : x + part.shape[1]] = part


def save_png(image: Image.Image, path: Path) -> None:
    """Save an image that appears under its name only when it is complete.

    Raises:
        OSError: It cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        image.save(part, format="PNG")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
