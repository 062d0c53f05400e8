"""Images with masks as batches; augmentation is a function of the key alone."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convnext.data.config import SegmentationDataConfig
from convnext.data.dataset import Key, key_generator
from convnext.data.pixels import normalise_into, to_pixels
from convnext.data.segmentation.coding import IGNORE
from convnext.data.segmentation.source import SegmentationSource
from convnext.data.segmentation.trained import trained_images
from convnext.data.segmentation.transforms import eval_pixels, train_view


class SegmentationBatch(TypedDict):
    """Images with their masks.

    image (N, C, H, W) float32, normalised; mask (N, h, w) int16, classes 0..K-1 and `IGNORE` (-1);
    index (N,) int64, rows of the source, -1 = does not count; original (N, 2) int64, height and
    width of the pictures. Training: image and mask are squares of `crop_size`, zeros (the mean
    colour) and `IGNORE` below and to the right of what is smaller. Evaluation: one image of the
    size of evaluation, its mask of the size of the picture.
    """

    image: Tensor
    mask: Tensor
    index: Tensor
    original: Tensor


class SegmentationDataset:
    """A source as a map from keys to batches.

    Args:
        source: the images and masks.
        config: sizes, normalisation and augmentation.
        train: augment.
        seed: of the augmentation.
    """

    def __init__(
        self,
        source: SegmentationSource,
        config: SegmentationDataConfig,
        *,
        train: bool,
        seed: int = 0,
    ) -> None:
        self.source = source
        self.config = config
        self.train = train
        self.seed = seed

    def __len__(self) -> int:
        return len(self.source)

    def fetch(self, keys: Sequence[Key]) -> SegmentationBatch:
        """The views of several keys as one batch; of one key in evaluation.

        Raises:
            ValueError: naming the file that is no readable image, or a mask that does not fit.
            OSError: if an image cannot be read.
        """
        return self._train(keys) if self.train else self._evaluation(keys)

    def _train(self, keys: Sequence[Key]) -> SegmentationBatch:
        config = self.config
        side = config.crop_size
        image = torch.zeros(len(keys), config.in_chans, side, side)
        mask = torch.full((len(keys), side, side), IGNORE, dtype=torch.int16)
        originals = []
        for i, key in enumerate(keys):
            row = max(key.image, 0)
            pixels = to_pixels(self.source.read(row, config.in_chans))
            height, width = pixels.shape[:2]
            truth = self.source.mask(row, (height, width))
            view, part = train_view(pixels, truth, config, key_generator(self.seed, key))
            normalise_into(image[i], view, config)
            mask[i, : part.shape[0], : part.shape[1]] = torch.from_numpy(part)
            originals.append([height, width])
        index = torch.tensor([key.image for key in keys])
        return {"image": image, "mask": mask, "index": index, "original": torch.tensor(originals)}

    def _evaluation(self, keys: Sequence[Key]) -> SegmentationBatch:
        if len(keys) != 1:
            raise ValueError(f"evaluation takes one image a batch, not {len(keys)}")
        row = max(keys[0].image, 0)
        pixels = to_pixels(self.source.read(row, self.config.in_chans))
        mask = self.source.mask(row, (pixels.shape[0], pixels.shape[1]))
        return {
            "image": eval_image(pixels, self.config),
            "mask": torch.from_numpy(mask)[None],
            "index": torch.tensor([keys[0].image]),
            "original": torch.tensor([mask.shape]),
        }


def eval_image(
    pixels: NDArray[np.uint8], config: SegmentationDataConfig, factor: float = 1.0
) -> Tensor:
    """(H, W, C) uint8 to (1, C, h, w) float32: normalised, of evaluation's size times a factor."""
    view = eval_pixels(pixels, config, factor)
    image = torch.empty(1, *view.shape)
    normalise_into(image[0], view, config)
    return image


def segmentation_dataset(
    source: SegmentationSource, config: SegmentationDataConfig, *, train: bool, seed: int = 0
) -> SegmentationDataset:
    """A source with the training augmentation, or with the fixed evaluation view.

    Training sees `trained_images` alone; `dataset.source` holds them, and `index` of a batch
    numbers them. Evaluation takes one image a batch.

    Raises:
        ValueError: if no image is left to train on, or a mask cannot be used.
    """
    if train:
        source = trained_images(source, config)
    return SegmentationDataset(source, config, train=train, seed=seed)
