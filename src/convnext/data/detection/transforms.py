"""Sizes, flips, resizing and crops of detection images: of pixels, boxes and masks alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from convnext.data.config import DetectionAugmentConfig, DetectionDataConfig

_PUBLISHED_SIDE = 800  # the short side that the numbers of the augmentation are meant for


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


def eval_steps(height: int, width: int, config: DetectionDataConfig) -> list[Step]:
    """What evaluation does to an image of a size."""
    return [Resize(*fit_size(height, width, config.min_size, config.max_size))]


def train_steps(
    height: int, width: int, config: DetectionDataConfig, random: np.random.RandomState
) -> list[Step]:
    """Random steps for a training image of a size; `DetectionAugmentConfig` says which."""
    augment = config.augment
    steps: list[Step] = []
    if random.random_sample() < augment.hflip:
        steps.append(Flip())
    if random.random_sample() < augment.vflip:
        steps.append(Flip(vertical=True))
    if augment.policy == "resize":
        return steps + eval_steps(height, width, config)
    share = config.min_size / _PUBLISHED_SIDE
    if augment.policy == "lsj":
        return steps + _jitter(height, width, augment, share, random)
    if random.random_sample() < augment.crop_prob:
        first = _side(augment.first_sides, share, random)
        height, width = fit_size(height, width, first, config.max_size)
        cut = _crop(height, width, augment.crop, share, random)
        steps += [Resize(height, width), cut]
        height, width = cut.height, cut.width
    short = _side(augment.short_sides, share, random)
    steps.append(Resize(*fit_size(height, width, short, config.max_size)))
    return steps


def _side(sides: Sequence[int], share: float, random: np.random.RandomState) -> int:
    return max(1, round(sides[random.randint(len(sides))] * share))


def _crop(
    height: int, width: int, limits: tuple[int, int], share: float, random: np.random.RandomState
) -> Crop:
    """A box of uniform height and width between the limits (or the image), at a random place."""
    low, high = (max(1, round(limit * share)) for limit in limits)
    h = int(random.randint(min(height, low), min(height, high) + 1))
    w = int(random.randint(min(width, low), min(width, high) + 1))
    top = int(random.randint(height - h + 1))
    left = int(random.randint(width - w + 1))
    return Crop(top, left, h, w)


def _jitter(
    height: int,
    width: int,
    augment: DetectionAugmentConfig,
    share: float,
    random: np.random.RandomState,
) -> list[Step]:
    side = max(1, round(augment.lsj_size * share))
    scaled = side * random.uniform(*augment.lsj_scale)
    height, width = fit_size(height, width, scaled, scaled)
    h, w = min(height, side), min(width, side)
    top = int(random.randint(height - h + 1))
    left = int(random.randint(width - w + 1))
    return [Resize(height, width), Crop(top, left, h, w)]


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


def apply_to_boxes(
    boxes: NDArray[np.float32], height: int, width: int, steps: Sequence[Step]
) -> NDArray[np.float32]:
    """Carry out steps on boxes, and cut them off at the edge of the image after each.

    Args:
        boxes: (n, 4) float32, x1, y1, x2, y2 in pixels of an image of the size given.
        height: of the image before the steps, in pixels.
        width: likewise.
        steps: in order.

    Returns:
        (n, 4) float32; a box that lies in no part that is left has width or height 0.
    """
    moved = _clip(boxes.astype(np.float64), height, width)
    for step in steps:
        if isinstance(step, Flip):
            if step.vertical:
                moved[:, [1, 3]] = height - moved[:, [3, 1]]
            else:
                moved[:, [0, 2]] = width - moved[:, [2, 0]]
            continue
        if isinstance(step, Resize):
            moved *= np.array([step.width / width, step.height / height] * 2)
        else:
            moved -= np.array([step.left, step.top] * 2)
        height, width = step.height, step.width
        moved = _clip(moved, height, width)
    return moved.astype(np.float32)


def _clip(boxes: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    return boxes.clip(0, np.array([width, height, width, height]))


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
