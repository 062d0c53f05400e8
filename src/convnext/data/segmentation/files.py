"""Files and folders to segment: found lazily, read one by one, in constant memory."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TypedDict

import torch
from PIL import Image
from torch import Tensor

from convnext.data.config import SegmentationDataConfig
from convnext.data.decode import read_image
from convnext.data.files import ReadFiles
from convnext.data.pixels import to_pixels
from convnext.data.segmentation.dataset import eval_image

_View = tuple[Tensor, Image.Image]  # pixels for the network, and the picture itself


class SceneBatch(TypedDict):
    """One image file as a batch, and as the picture it is.

    image (1, C, h, w) float32, normalised and of the size of evaluation; original (1, 2) int64,
    height and width of the picture; name, the file; picture, of mode "RGB" and the original size.
    """

    image: Tensor
    original: Tensor
    name: list[str]
    picture: list[Image.Image]


class SegmentationFiles(ReadFiles[_View, SceneBatch]):
    """Image files one by one; what cannot be read is listed instead of ending the run.

    Args:
        files: names, possibly endless; read only as far as needed.
        config: size and normalisation; `path` and `augment` play no part.
        workers: loader processes.

    Attributes:
        unreadable: the unreadable files met so far.
    """

    def __init__(
        self, files: Iterable[str], config: SegmentationDataConfig, *, workers: int = 0
    ) -> None:
        super().__init__(files, partial(_read, config=config), _join, batch_size=1, workers=workers)


def _read(name: str, *, config: SegmentationDataConfig) -> _View:
    picture = read_image(Path(name), 3)
    view = picture if config.in_chans == 3 else read_image(Path(name), 1)
    return eval_image(to_pixels(view), config), picture


def _join(names: list[str], views: list[_View]) -> SceneBatch:
    (image, picture) = views[0]
    original = torch.tensor([[picture.height, picture.width]])
    return {"image": image, "original": original, "name": names, "picture": [picture]}
