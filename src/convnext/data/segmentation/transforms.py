"""Training and evaluation views of an image and its mask."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convnext.data.config import SegmentationDataConfig
from convnext.data.pixels import (
    Crop,
    Flip,
    Grid,
    Resize,
    Step,
    apply_to_pixels,
    fit_size,
    mask_grid,
)
from convnext.data.segmentation.photometric import distort

_RETRIES = 10


def eval_size(
    height: int, width: int, config: SegmentationDataConfig, factor: float = 1.0
) -> tuple[int, int]:
    """The size that evaluation gives to an image of a size, its limits times a factor."""
    if not config.min_size:
        return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))
    return fit_size(height, width, factor * config.min_size, factor * config.max_size)


def eval_pixels(
    pixels: NDArray[np.uint8], config: SegmentationDataConfig, factor: float = 1.0
) -> Tensor:
    """(H, W, C) uint8 to (C, h, w) uint8 of the size of evaluation, times a factor."""
    size = eval_size(pixels.shape[0], pixels.shape[1], config, factor)
    return apply_to_pixels(pixels, [Resize(*size)])


def train_view(
    pixels: NDArray[np.uint8],
    mask: NDArray[np.int16],
    config: SegmentationDataConfig,
    random: np.random.RandomState,
) -> tuple[Tensor, NDArray[np.int16]]:
    """A random view of an image and its mask, as `SegmentationAugmentConfig` says.

    Args:
        pixels: (H, W, C) uint8.
        mask: (H, W), classes and `IGNORE`.
        config: sizes and augmentation.
        random: what draws.

    Returns:
        The image (C, h, w) uint8 and the mask (h, w), h and w at most `config.crop_size`.

    Source: Liu et al. 2022, Appendix A.3, and its published configuration.
    """
    augment = config.augment
    height, width = mask.shape
    resize = train_size(height, width, config, random)
    whole = mask_grid(height, width, [resize])
    crop = choose_crop(mask, whole, config, random)
    steps: list[Step] = [resize, crop]
    if random.random_sample() < augment.hflip:
        steps.append(Flip())
    if random.random_sample() < augment.vflip:
        steps.append(Flip(vertical=True))
    rows, columns = mask_grid(height, width, steps)
    view = apply_to_pixels(pixels, steps)
    if augment.photometric:
        coloured = distort(view.permute(1, 2, 0).numpy(), augment, random)
        view = torch.from_numpy(coloured).permute(2, 0, 1)
    return view, mask[rows][:, columns]


def train_size(
    height: int, width: int, config: SegmentationDataConfig, random: np.random.RandomState
) -> Resize:
    """The size of evaluation with its limits times a random factor, rounded down."""
    factor = random.uniform(*config.augment.scale)
    if not config.min_size:
        return Resize(max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5)))
    short, long = (max(1, int(side * factor)) for side in (config.min_size, config.max_size))
    return Resize(*fit_size(height, width, short, long))


def choose_crop(
    mask: NDArray[np.int16],
    grid: Grid,
    config: SegmentationDataConfig,
    random: np.random.RandomState,
) -> Crop:
    """A random square of the resized image; another one while one class fills too much of it.

    After ten retries the last one drawn is taken as it is.

    Args:
        mask: (H, W), of the image before it is resized.
        grid: the pixels of the mask that make up the resized one.
        config: the side of the square and `augment.cat_max_ratio`.
        random: what draws.
    """
    most = config.augment.cat_max_ratio
    crop = _crop(len(grid.rows), len(grid.columns), config.crop_size, random)
    for _ in range(_RETRIES if most < 1 else 0):
        rows = grid.rows[crop.top : crop.top + crop.height]
        columns = grid.columns[crop.left : crop.left + crop.width]
        if _is_mixed(mask[rows][:, columns], most):
            break
        crop = _crop(len(grid.rows), len(grid.columns), config.crop_size, random)
    return crop


def _crop(height: int, width: int, side: int, random: np.random.RandomState) -> Crop:
    h, w = min(height, side), min(width, side)
    top = int(random.randint(height - h + 1))
    left = int(random.randint(width - w + 1))
    return Crop(top, left, h, w)


def _is_mixed(mask: NDArray[np.int16], most: float) -> bool:
    """Whether there are two classes or more, none of more than a share of what counts."""
    counts = np.bincount(mask.ravel() + 1)[1:]  # without what is ignored
    return bool((counts > 0).sum() > 1 and counts.max() / counts.sum() < most)
