"""Files and folders to detect objects in: found lazily, read in batches, in constant memory."""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TypedDict

from PIL import Image
from torch import Tensor

from convnext.data.config import DetectionDataConfig
from convnext.data.decode import read_image
from convnext.data.detection.dataset import collate, to_pixels
from convnext.data.detection.transforms import apply_to_pixels, eval_steps
from convnext.data.files import Pieces, Unreadable
from convnext.data.loading import Loader


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


class DetectionFiles:
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
        if batch_size < 1:
            raise ValueError(f"batch size {batch_size}: give at least 1")
        self.unreadable: list[Unreadable] = []
        read = partial(_read, config=config)
        self._loader = Loader(read, Pieces(files, batch_size), workers=workers)

    def __iter__(self) -> Iterator[PictureBatch]:
        for batch, unreadable in self._loader:
            self.unreadable += unreadable
            if batch is not None:
                yield batch


def _read(
    names: list[str], *, config: DetectionDataConfig
) -> tuple[PictureBatch | None, list[Unreadable]]:
    images, pictures, good, bad = [], [], [], []
    for name in names:
        try:
            picture = read_image(Path(name), 3)
        except (OSError, ValueError) as error:
            bad.append(Unreadable(name, str(error)))
            continue
        view = picture if config.in_chans == 3 else read_image(Path(name), 1)
        height, width = picture.height, picture.width
        pixels = apply_to_pixels(to_pixels(view), eval_steps(height, width, config))
        images.append((pixels, (height, width)))
        pictures.append(picture)
        good.append(name)
    if not images:
        return None, bad
    batch = collate(images, config)
    return {
        "image": batch["image"],
        "size": batch["size"],
        "original": batch["original"],
        "name": good,
        "picture": pictures,
    }, bad
