"""Images with their masks, read when they are needed."""

import hashlib
import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convnext.data.decode import read_raw, read_turn
from convnext.data.detection.header import header_size
from convnext.data.segmentation.coding import Coding, MaskError
from convnext.data.source import FileSource, PackedStrings

T = TypeVar("T")


class SegmentationSource(FileSource):
    """Image files with a mask each.

    `labels` of the base class are all 0: an image has no class of its own. Image and mask are each
    turned upright as their own EXIF data say: a mask without such data belongs to the upright
    picture.

    Args:
        root: folder that relative paths start from.
        paths: one per image, relative to `root`.
        masks: likewise, "" where an image has none.
        coding: what the values of masks mean.

    Attributes:
        coding: as above.
    """

    def __init__(
        self, root: str, paths: Iterable[str], masks: Iterable[str], coding: Coding
    ) -> None:
        names = list(paths)
        super().__init__(root, names, np.zeros(len(names), np.int64))
        self._masks = PackedStrings(masks)
        assert len(self._masks) == len(names)
        self.coding = coding

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes 0..K-1."""
        return self.coding.classes

    def mask_name(self, i: int) -> str:
        """What to call the mask of image `i` in messages, "" where it has none."""
        path = self._masks[int(self._rows[i])]
        name = os.path.join(self._root, path) if path else ""  # noqa: PTH118 - runs per image
        return os.fsencode(name).decode("utf-8", "backslashreplace")

    def mask(self, i: int, size: tuple[int, int] | None = None) -> NDArray[np.int16]:
        """The class of every pixel of image `i`, (H, W) int16; `IGNORE` (-1) counts for nothing.

        Args:
            i: position of the image.
            size: height and width of the picture where it is known, else it is looked up.

        Raises:
            MaskError: (a ValueError) naming the mask that is missing, unreadable, not of the size
                of its image, or holds values outside the classes.
            OSError: naming the image that cannot be read.
        """
        image = self.raw_mask(i)
        height, width = size or header_size(self.path(i))
        if image.size != (width, height):
            raise MaskError(self._other_size(i, image.size, (width, height)), "size_mismatch")
        return self.coding.decode(image, self.mask_name(i))

    def raw_mask(self, i: int) -> Image.Image:
        """The mask of image `i` with the values that are stored, upright.

        Raises:
            MaskError: if it is missing or unreadable, as `mask`.
        """
        return self._from_mask(i, partial(read_raw, upright=True))

    def turns(self, i: int) -> tuple[int, int]:
        """The EXIF orientations of image `i` and of its mask, 1 = upright; raises as `mask`."""
        image = read_turn(self.open(i), name=self.name(i))
        return image, self._from_mask(i, read_turn)

    def _from_mask(self, i: int, read: Callable[..., T]) -> T:
        """What a function makes of the bytes and the name of the mask of image `i`."""
        name = self.mask_name(i)
        if not name:
            raise MaskError(
                f"{self.name(i)}: there is no mask for this image; add it, or take the image away",
                "missing_mask",
            )
        path = os.path.join(self._root, self._masks[int(self._rows[i])])  # noqa: PTH118
        try:
            with open(path, "rb") as file:  # noqa: PTH123
                return read(file.read(), name=name)
        except OSError as error:
            text = f"{name}: the mask cannot be read ({error.strerror or error})"
            raise MaskError(text, "unreadable_mask") from error
        except ValueError as error:
            raise MaskError(f"{error}; a mask is expected", "unreadable_mask") from error

    def check(self, i: int) -> None:
        """Read image and mask; raises as `read` and `mask`."""
        image = self.read(i)
        self.mask(i, (image.height, image.width))

    def stamps(self) -> NDArray[np.int64]:
        """Size and time of change of every image and mask (-1 = missing), and of the coding."""
        images = super().stamps()
        assert images is not None, "files have sizes and times"
        stamps = np.full((len(self), 5), -1, np.int64)
        stamps[:, :2] = images
        # Other classes, other results of reading the same files.
        digest = hashlib.sha256(repr(self.coding).encode("utf-8", "surrogateescape")).digest()
        stamps[:, 4] = int.from_bytes(digest[:7])
        for i, row in enumerate(self._rows):
            if path := self._masks[int(row)]:
                try:
                    status = os.stat(os.path.join(self._root, path))  # noqa: PTH116, PTH118
                except OSError:
                    continue
                stamps[i, 2:4] = status.st_size, status.st_mtime_ns
        return stamps

    def _other_size(self, i: int, mask: tuple[int, int], image: tuple[int, int]) -> str:
        text = (
            f"{self.mask_name(i)}: the mask has {mask[0]}x{mask[1]} pixels, its image "
            f"{self.name(i)} has {image[0]}x{image[1]}"
        )
        if header_size(self.path(i), upright=False) == mask[::-1]:
            return (
                f"{text} once it is turned upright as its EXIF data say; the mask belongs to the "
                "picture before that: turn the mask, too, or remove the turn from the image"
            )
        return f"{text}; both must have the same size, so export the mask again or resize it"
