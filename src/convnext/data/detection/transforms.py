"""The steps that detection images go through in training and in evaluation, and their boxes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from convnext.data.config import DetectionAugmentConfig, DetectionDataConfig
from convnext.data.pixels import Crop, Flip, Resize, Step, fit_size

_PUBLISHED_SIDE = 800  # the short side that the numbers of the augmentation are meant for


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
