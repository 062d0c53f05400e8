"""Pictures of any size to be segmented part by part, with what is known of where they lie."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convnext.data.decode import read_image
from convnext.data.segmentation.raster import Raster, is_raster, open_raster

__all__ = ["Picture", "Scene", "open_scene", "read_scene"]


class Scene(Protocol):
    """A picture that is read in parts.

    Attributes:
        name: the file.
        size: height and width in pixels.
    """

    name: str
    size: tuple[int, int]

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        """A part of it, (h, w, C).

        Raises:
            ValueError: naming the file, if it is damaged there.
        """

    def missing(self, top: int, left: int, height: int, width: int) -> NDArray[np.bool_] | None:
        """Where a part has no data, (h, w); None if it has data everywhere.

        Raises:
            ValueError: as `read`.
        """

    def picture(self) -> Image.Image:
        """The whole of it, of mode "RGB" or "L".

        Raises:
            ValueError: it is too large, or damaged.
        """

    def reduced(self, factor: int) -> Image.Image:
        """The whole of it with sides that are a factor smaller, rounded up.

        Raises:
            ValueError: as `read`.
        """


class Picture:
    """A picture in memory as a `Scene`.

    Args:
        name: of the file.
        image: of mode "RGB" or "L".
    """

    def __init__(self, name: str, image: Image.Image) -> None:
        self.name = name
        self.size = (image.height, image.width)
        self._image = image

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        """See `Scene`."""
        part = np.array(self._image.crop((left, top, left + width, top + height)))
        return part[:, :, None] if part.ndim == 2 else part

    def missing(self, top: int, left: int, height: int, width: int) -> None:
        """It has data everywhere."""

    def picture(self) -> Image.Image:
        """See `Scene`."""
        return self._image

    def reduced(self, factor: int) -> Image.Image:
        """See `Scene`."""
        return self._image.reduce(factor)


def read_scene(name: str, channels: int) -> Image.Image | None:
    """The picture of a file, or None if it is a raster that `open_scene` reads in parts.

    A raster is a TIFF or JPEG 2000 with coordinates, of more than 25 megapixels, or with bands that
    only rasterio reads.

    Args:
        name: of the file.
        channels: 3 for mode "RGB", 1 for mode "L".

    Raises:
        ValueError: naming the file, if it is no readable image.
        OSError: it cannot be read.
    """
    if is_raster(Path(name)):
        return None
    return read_image(Path(name), channels)


@contextmanager
def open_scene(name: str, image: Image.Image | None, channels: int) -> Iterator[Picture | Raster]:
    """What `read_scene` said of a file as something to read in parts.

    Raises:
        ValueError: naming the file, if it is damaged.
        OSError: it cannot be read.
    """
    if image is not None:
        yield Picture(name, image)
        return
    with open_raster(Path(name), channels) as raster:
        yield raster
