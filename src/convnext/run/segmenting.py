"""A segmentation network as a function of pictures, seen once, in windows or in several views."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from convnext.data.config import SegmentationDataConfig
from convnext.data.pixels import normalise_into, to_pixels
from convnext.data.segmentation.dataset import eval_image
from convnext.data.segmentation.transforms import eval_size
from convnext.models.segmentation.sliding import Tile, Windows, num_predictions, slide, whole
from convnext.models.segmentation.views import SCALES, classes_at, mean_probabilities
from convnext.models.upernet import MIN_SIDE, UPerNet

__all__ = [
    "Labels",
    "Predict",
    "as_predict",
    "calls",
    "check_views",
    "image_classes",
    "image_logits",
    "segment_picture",
    "segment_windows",
]

Predict = Callable[[Tensor], Tensor]
ReadPixels = Callable[[int, int, int, int], NDArray[np.uint8]]
VIEW_BYTES = 2**30  # of probabilities; of a larger image the mean is taken at the network's size
WHOLE_BYTES = 2**30  # of logits of an image that keeps its size; a larger one gets windows
WINDOW_BATCH = {"cpu": 1}  # windows at once; on an accelerator more
ACCELERATOR_BATCH = 8


class Labels(NamedTuple):
    """The classes of a part of an image.

    Attributes:
        top: first row.
        left: first column.
        classes: (h, w) int16.
    """

    top: int
    left: int
    classes: NDArray[np.int16]


def _window_batch(device: torch.device) -> int:
    """Windows that are predicted at once."""
    return WINDOW_BATCH.get(device.type, ACCELERATOR_BATCH)


def calls(image: Tensor, data: SegmentationDataConfig, num_classes: int) -> int:
    """How often `image_logits` and `image_classes` call the network for an image (C, h, w)."""
    size = _padded_size(image.shape[1], image.shape[2])
    return num_predictions(
        size, _windows(data, size, num_classes), num_classes, batch=_window_batch(image.device)
    )


def image_logits(
    predict: Predict, image: Tensor, data: SegmentationDataConfig, num_classes: int
) -> Tensor:
    """Logits (K, h, w) of an image (C, h, w) that is normalised and of the network's size.

    Args:
        predict: (B, C, h, w) to logits (B, K, h, w).
        image: of any size; sides below 32 are padded with zeros on the way.
        data: says which windows the image is seen through; of an image that keeps its size and
            whose logits would exceed 1 GiB it is never the whole.
        num_classes: K.
    """
    height, width = image.shape[1:]
    tiles = _tiles(predict, image, data, num_classes)
    return whole(tiles, _padded_size(height, width))[:, :height, :width]


def image_classes(
    predict: Predict,
    image: Tensor,
    data: SegmentationDataConfig,
    num_classes: int,
    size: tuple[int, int],
) -> Tensor:
    """The class of every pixel of a picture, (H, W) int16, from its image as the network sees it.

    Of an image that keeps its size the logits never exist whole: memory does not grow with them.

    Args:
        predict: as in `image_logits`; likewise the next three.
        image: (C, h, w).
        data: says which windows.
        num_classes: K.
        size: height and width of the picture.
    """
    height, width = size
    if tuple(image.shape[1:]) != size:
        return classes_at(image_logits(predict, image, data, num_classes), size)
    classes: Tensor | None = None
    for tile in _tiles(predict, image, data, num_classes):
        part = classes_at(tile.logits, (tile.logits.shape[1], tile.logits.shape[2]))
        if classes is None:
            classes = part.new_empty(_padded_size(height, width))
        bottom, right = tile.top + part.shape[0], tile.left + part.shape[1]
        classes[tile.top : bottom, tile.left : right] = part
    assert classes is not None, "an image has at least one window"
    return classes[:height, :width]


def _tiles(
    predict: Predict, image: Tensor, data: SegmentationDataConfig, num_classes: int
) -> Iterator[Tile]:
    """The finished parts of the logits of an image (C, h, w), padded with zeros if it is small."""
    height, width = image.shape[1:]
    size = _padded_size(height, width)
    image = F.pad(image, (0, size[1] - width, 0, size[0] - height))

    def read(top: int, left: int, h: int, w: int) -> Tensor:
        return image[:, top : top + h, left : left + w]

    windows, batch = _windows(data, size, num_classes), _window_batch(image.device)
    return slide(_nhwc(predict), read, size, windows, num_classes, batch=batch)


def _padded_size(height: int, width: int) -> tuple[int, int]:
    return max(height, MIN_SIDE), max(width, MIN_SIDE)


def _windows(data: SegmentationDataConfig, size: tuple[int, int], num_classes: int) -> Windows:
    keeps_large = not data.min_size and 4 * num_classes * size[0] * size[1] > WHOLE_BYTES
    if not data.window and not keeps_large:
        return Windows(max(size), max(size))
    return _sliding(data)


def _sliding(data: SegmentationDataConfig) -> Windows:
    """The windows of the data, or the usual ones if the network usually sees images whole."""
    seen = data if data.window else SegmentationDataConfig()
    return Windows(max(seen.window, MIN_SIDE), max(seen.stride, 1))


def _nhwc(predict: Predict) -> Predict:
    return lambda images: predict(images.contiguous(memory_format=torch.channels_last))


@torch.no_grad()
def segment_picture(
    network: UPerNet,
    picture: Image.Image,
    data: SegmentationDataConfig,
    device: torch.device,
    *,
    views: bool = False,
    name: str = "the image",
) -> NDArray[np.int16]:
    """The class of every pixel of a picture, (H, W).

    Args:
        network: In evaluation mode.
        picture: In the colours that the network takes.
        data: How pictures become tensors, and how they are seen.
        device: Where the network is.
        views: See it at six sizes and mirrored, whole each time; the mean of the probabilities
            counts. Of pictures whose probabilities exceed 1 GiB it is taken at the network's size.
        name: What to call the picture in an error.

    Raises:
        ValueError: The picture is too large for `views`, see `check_views`.
    """
    pixels, size = to_pixels(picture), (picture.height, picture.width)
    num_classes = network.config.num_classes
    if not views:
        image = eval_image(pixels, data)[0].to(device)
        return _numpy(image_classes(network, image, data, num_classes, size))
    check_views(name, size, num_classes, data)
    at = size
    if _view_bytes(size, num_classes) > VIEW_BYTES:
        at = eval_size(*size, data)
    images = (eval_image(pixels, data, scale)[0].to(device) for scale in SCALES)
    probabilities = mean_probabilities(_padding(network), images, at)
    return _numpy(classes_at(probabilities, size))


def check_views(
    name: str, size: tuple[int, int], num_classes: int, data: SegmentationDataConfig
) -> None:
    """Refuse to see an image in several views that keeps its size and is too large for it.

    Args:
        name: What to call the image.
        size: Its height and width.
        num_classes: K.
        data: How images are seen.

    Raises:
        ValueError: Its probabilities would exceed 1 GiB, and there is no smaller size to take
            their mean at.
    """
    needed = _view_bytes(size, num_classes)
    if not data.min_size and needed > VIEW_BYTES:
        raise ValueError(
            f"{name}: {size[1]}x{size[0]} pixels of {num_classes} classes are too large to be seen "
            f"whole at six sizes (tta): {needed / 2**30:.1f} GiB for each view, at most "
            f"{VIEW_BYTES / 2**30:g}. Leave out tta, or give a size for it (image_size)"
        )


def _view_bytes(size: tuple[int, int], num_classes: int) -> int:
    return 4 * num_classes * size[0] * size[1]


def _padding(predict: Predict) -> Predict:
    """The network for images of any size: what is too small is padded with zeros."""

    def padded(images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        size = _padded_size(height, width)
        images = F.pad(images, (0, size[1] - width, 0, size[0] - height))
        return _nhwc(predict)(images)[:, :, :height, :width]

    return padded


@torch.no_grad()
def segment_windows(
    network: UPerNet,
    read: ReadPixels,
    size: tuple[int, int],
    data: SegmentationDataConfig,
    device: torch.device,
) -> Iterator[Labels]:
    """The class of every pixel of an image of any size, part by part, in constant memory.

    The image keeps its size and is seen through windows of `data.window` pixels (512 if the network
    usually sees images whole).

    Args:
        network: In evaluation mode.
        read: Top, left, height and width to that part of the image, (h, w, C) uint8.
        size: Height and width of the image, each at least 32.
        data: How pixels become tensors.
        device: Where the network is.
    """

    def part(top: int, left: int, height: int, width: int) -> Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(read(top, left, height, width)))
        place = torch.empty(pixels.shape[2], height, width)
        normalise_into(place, pixels.permute(2, 0, 1), data)
        return place.to(device)

    num_classes, batch = network.config.num_classes, _window_batch(device)
    windows = _sliding(data)
    for tile in slide(_padding(network), part, size, windows, num_classes, batch=batch):
        classes = classes_at(tile.logits, (tile.logits.shape[1], tile.logits.shape[2]))
        yield Labels(tile.top, tile.left, _numpy(classes))


def _numpy(classes: Tensor) -> NDArray[np.int16]:
    found: NDArray[np.int16] = classes.cpu().numpy()
    return found


def as_predict(task: nn.Module) -> Predict:
    """The logits of a task in evaluation mode as a function of images."""

    def predict(images: Tensor) -> Tensor:
        logits: Tensor = task({"image": images})["logits"]
        return logits

    return predict
