"""Images with boxes and masks as padded batches; augmentation is a function of the key alone."""

import math
from collections.abc import Sequence
from typing import NamedTuple, NotRequired, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convnext.data.config import DetectionDataConfig
from convnext.data.dataset import Key, key_generator
from convnext.data.detection.rle import decode_masks
from convnext.data.detection.source import DetectionSource
from convnext.data.detection.trained import trained_images
from convnext.data.detection.transforms import apply_to_boxes, eval_steps, train_steps
from convnext.data.pixels import Grid, apply_to_pixels, mask_grid, normalise_into, to_pixels

DIVISOR = 32  # the network halves its input five times


class DetectionBatch(TypedDict):
    """Images of several sizes in one tensor, with their objects when training.

    image (N, C, H, W) float32, normalised, zeros below and to the right of each image, H and W
    multiples of 32; size (N, 2) int64, height and width of each image inside; original (N, 2)
    int64, those of the picture it was made of; index (N,) int64, rows of the source, -1 = does not
    count. Training only: boxes, N tensors (n, 4) float32, x1, y1, x2, y2 in pixels of `image`;
    labels, N tensors (n,) int64; masks, N tensors (n, h, w) uint8 of the size of each image.
    """

    image: Tensor
    size: Tensor
    original: Tensor
    index: Tensor
    boxes: NotRequired[list[Tensor]]
    labels: NotRequired[list[Tensor]]
    masks: NotRequired[list[Tensor]]


class View(NamedTuple):
    """One image on its way into a batch: (C, h, w) uint8, and its objects when training.

    Of the masks it holds the run lengths, and which of their pixels belong into the batch.
    """

    pixels: Tensor
    original: tuple[int, int]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    rles: Sequence[bytes] = ()
    grid: Grid | None = None


class DetectionDataset:
    """A source as a map from keys to padded batches.

    Args:
        source: the images and objects.
        config: sizes, normalisation and augmentation.
        train: augment, and give the objects.
        seed: of the augmentation.
    """

    def __init__(
        self, source: DetectionSource, config: DetectionDataConfig, *, train: bool, seed: int = 0
    ) -> None:
        self.source = source
        self.config = config
        self.train = train
        self.seed = seed
        self._masks = train and config.masks and source.has_masks

    def __len__(self) -> int:
        return len(self.source)

    def fetch(self, keys: Sequence[Key]) -> DetectionBatch:
        """The views of several keys as one batch.

        Raises:
            ValueError: naming the file that is no readable image, or not of the annotated size.
            OSError: if a file cannot be read.
        """
        views = [self.view(key) for key in keys]
        batch = collate([(view.pixels, view.original) for view in views], self.config)
        batch["index"] = torch.tensor([key.image for key in keys])
        if self.train:
            # Parts of one tensor each: a loader process passes every tensor by a file descriptor.
            counts = [len(view.labels) for view in views]
            boxes = torch.from_numpy(np.concatenate([view.boxes for view in views]))
            labels = torch.from_numpy(np.concatenate([view.labels for view in views]))
            batch["boxes"] = list(torch.split(boxes, counts))
            batch["labels"] = list(torch.split(labels, counts))
            if self._masks:
                batch["masks"] = _masks(views)
        return batch

    def view(self, key: Key) -> View:
        """One image of a batch, not yet normalised; raises as `fetch`."""
        row = max(key.image, 0)
        picture = self.source.read(row, self.config.in_chans)
        pixels = to_pixels(picture)
        height, width = pixels.shape[:2]
        if not self.train:
            none = np.empty((0, 4), np.float32), np.empty(0, np.int64)
            steps = eval_steps(height, width, self.config)
            return View(apply_to_pixels(pixels, steps), (height, width), *none)
        steps = train_steps(height, width, self.config, key_generator(self.seed, key))
        objects = self.source.objects(row)
        boxes = apply_to_boxes(objects.boxes, height, width, steps)
        kept = objects.trains & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        view = View(
            apply_to_pixels(pixels, steps), (height, width), boxes[kept], objects.labels[kept]
        )
        if not self._masks:
            return view
        assert objects.rles is not None, "the source has masks"
        rles = [objects.rles[k] for k in np.flatnonzero(kept)]
        return view._replace(rles=rles, grid=mask_grid(height, width, steps))


def detection_dataset(
    source: DetectionSource, config: DetectionDataConfig, *, train: bool, seed: int = 0
) -> DetectionDataset:
    """A source with the training augmentation, or with the fixed evaluation view.

    Training sees `trained_images` alone; `dataset.source` holds them, and `index` of a batch
    numbers them.

    Raises:
        ValueError: if no image is left to train on.
    """
    if train:
        source = trained_images(source, config)
    return DetectionDataset(source, config, train=train, seed=seed)


def collate(
    images: Sequence[tuple[Tensor, tuple[int, int]]], config: DetectionDataConfig
) -> DetectionBatch:
    """Images (C, h, w) uint8, each with its original size, as one normalised, padded batch.

    Every `index` is left at 0.
    """
    sizes = torch.tensor([list(pixels.shape[1:]) for pixels, _ in images])
    height, width = (-(-sizes // DIVISOR) * DIVISOR).amax(0).tolist()
    batch = torch.zeros(len(images), config.in_chans, height, width)
    for place, (pixels, _) in zip(batch, images, strict=True):
        normalise_into(place, pixels, config)
    return {
        "image": batch,
        "size": sizes,
        "original": torch.tensor([original for _, original in images]),
        "index": torch.zeros(len(images), dtype=torch.int64),
    }


def _masks(views: Sequence[View]) -> list[Tensor]:
    """The masks of several images, (n, h, w) uint8 each, as parts of one tensor."""
    shapes = [(len(view.rles), *view.pixels.shape[1:]) for view in views]
    store = torch.zeros(sum(map(math.prod, shapes)), dtype=torch.uint8)
    parts = torch.split(store, [math.prod(shape) for shape in shapes])
    masks = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
    for mask, view in zip(masks, views, strict=True):
        assert view.grid is not None, "views with masks"
        decode_masks(view.rles, view.original, view.grid, mask.numpy())
    return masks
