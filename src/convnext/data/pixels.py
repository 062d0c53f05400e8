"""Sizes, flips, resizing and crops of pictures and of the masks that belong to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from convnext.data.config import ImagesConfig


def fit_size(height: int, width: int, short: float, long: float) -> tuple[int, int]:
    """The size with the short side as given, unless the long side would exceed its limit.

    f = min(long / max(h, w), short / min(h, w)); each side becomes int(side * f + 0.5).

    Source: the size rule of mmcv, with which the published detectors were trained and scored.
    """
    factor = min(long / max(height, width), short / min(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


@dataclass(frozen=True)
class Resize:
    """Resize the whole image to a height and a width in pixels."""

    height: int
    width: int


@dataclass(frozen=True)
class Crop:
    """Keep the part with its upper left corner at (top, left)."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Flip:
    """Mirror left and right, or upside down."""

    vertical: bool = False


Step = Resize | Crop | Flip


def to_pixels(picture: Image.Image) -> NDArray[np.uint8]:
    """A picture as (H, W, C) uint8, its own copy."""
    pixels = np.array(picture)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def apply_to_pixels(pixels: NDArray[np.uint8], steps: Sequence[Step]) -> Tensor:
    """Carry out steps on an image.

    Args:
        pixels: (H, W, C) uint8.
        steps: in order; resizing is bilinear without antialiasing and rounds to whole grey levels.

    Returns:
        (C, H', W') uint8, its memory in the order H', W', C.
    """
    image = torch.from_numpy(pixels).permute(2, 0, 1)  # (C, H, W)
    for step in steps:
        if isinstance(step, Flip):
            image = image.flip(1 if step.vertical else 2)
        elif isinstance(step, Crop):
            rows = slice(step.top, step.top + step.height)
            image = image[:, rows, step.left : step.left + step.width]
        elif image.shape[1:] != (step.height, step.width):
            image = _bilinear(image, step.height, step.width)
    return image


def _bilinear(image: Tensor, height: int, width: int) -> Tensor:
    whole = image[None].contiguous(memory_format=torch.channels_last)
    return F.interpolate(whole, (height, width), mode="bilinear", align_corners=False)[0]


def normalise_into(place: Tensor, pixels: Tensor, config: ImagesConfig) -> None:
    """Write an image (C, h, w) uint8, normalised, into the upper left of (C, H, W) float32."""
    mean = 255 * torch.tensor(config.channel_mean).view(-1, 1, 1)
    scale = 1 / (255 * torch.tensor(config.channel_std).view(-1, 1, 1))
    part = place[:, : pixels.shape[1], : pixels.shape[2]]
    part.copy_(pixels).sub_(mean).mul_(scale)


class Grid(NamedTuple):
    """The rows and columns of an image that its pixels after some steps are taken from."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]


def mask_grid(height: int, width: int, steps: Sequence[Step]) -> Grid:
    """Compose steps on masks: each pixel of the result is one of the mask, mask[rows][:, columns].

    Resizing takes the pixel at floor(i * old / new). Composed, a mask needs to be decoded but once,
    and looked at only where it is (`decode_masks`).

    Args:
        height: of the image before the steps, in pixels.
        width: likewise.
        steps: in order.
    """
    rows, columns = np.arange(height), np.arange(width)
    for step in steps:
        if isinstance(step, Flip):
            rows, columns = (rows[::-1], columns) if step.vertical else (rows, columns[::-1])
        elif isinstance(step, Crop):
            rows = rows[step.top : step.top + step.height]
            columns = columns[step.left : step.left + step.width]
        else:
            rows = rows[_nearest(len(rows), step.height)]
            columns = columns[_nearest(len(columns), step.width)]
    return Grid(rows, columns)


def _nearest(old: int, new: int) -> NDArray[np.int64]:
    places: NDArray[np.int64] = np.floor(np.arange(new) * (old / new)).astype(np.int64)
    return places.clip(max=old - 1)
