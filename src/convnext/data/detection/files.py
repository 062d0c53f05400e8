"""Files and folders to detect objects in: found lazily, read in batches, in constant memory."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TypedDict

from PIL import Image
from torch import Tensor

from convnext.data.config import DetectionDataConfig
from convnext.data.decode import read_image
from convnext.data.detection.dataset import collate
from convnext.data.detection.transforms import eval_steps
from convnext.data.files import ReadFiles
from convnext.data.pixels import apply_to_pixels, to_pixels

_View = tuple[Tensor, Image.Image]  # pixels for the network, and the picture itself


class PictureBatch(TypedDict):
    """Image files as a batch, and as the pictures they are.

    image (N, C, H, W) float32, normalised and padded as in `DetectionBatch`; size (N, 2) and
    original (N, 2) int64 as there; name, the N files; picture, N images of mode "RGB" and of the
    original size, to draw on.
    """

    image: Tensor
    size: Tensor
    original: Tensor
    name: list[str]
    picture: list[Image.Image]


class DetectionFiles(ReadFiles[_View, PictureBatch]):
    """Batches of image files; what cannot be read is listed instead of ending the run.

    Args:
        files: names, possibly endless; read only as far as needed.
        config: sizes and normalisation; `path` and `augment` play no part.
        batch_size: files per batch; a batch is smaller where files are unreadable, and never empty.
        workers: loader processes.

    Attributes:
        unreadable: the unreadable files met so far.
    """

    def __init__(
        self,
        files: Iterable[str],
        config: DetectionDataConfig,
        *,
        batch_size: int = 1,
        workers: int = 0,
    ) -> None:
        super().__init__(
            files,
            partial(_read, config=config),
            partial(_join, config=config),
            batch_size=batch_size,
            workers=workers,
        )


def _read(name: str, *, config: DetectionDataConfig) -> _View:
    picture = read_image(Path(name), 3)
    view = picture if config.in_chans == 3 else read_image(Path(name), 1)
    steps = eval_steps(picture.height, picture.width, config)
    return apply_to_pixels(to_pixels(view), steps), picture


def _join(names: list[str], views: list[_View], *, config: DetectionDataConfig) -> PictureBatch:
    sizes = [(picture.height, picture.width) for _, picture in views]
    pixels = [pixels for pixels, _ in views]
    batch = collate(list(zip(pixels, sizes, strict=True)), config)
    return {
        "image": batch["image"],
        "size": batch["size"],
        "original": batch["original"],
        "name": names,
        "picture": [picture for _, picture in views],
    }
