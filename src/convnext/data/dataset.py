"""Images as tensors, with augmentation that is a function of (seed, epoch, index)."""

import hashlib
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate

from convnext.data.config import DataConfig
from convnext.data.source import Source
from convnext.data.transforms import eval_transform, train_transform

Transform = Callable[[Image.Image], Tensor]
PADDING = -1


class Key(NamedTuple):
    """Which view of which image: the `repeat`-th time that `image` is drawn in `epoch`.

    An image of `PADDING` (-1) stands for image 0, marked as not counting.
    """

    epoch: int
    image: int
    repeat: int = 0


class Batch(TypedDict):
    """image (N, C, H, W) float32, label (N,) int64, index (N,) int64 (-1 = does not count)."""

    image: Tensor
    label: Tensor
    index: Tensor


class ImageDataset:
    """A source and a transform as a map from (epoch, index) to a labelled tensor.

    Args:
        source: the images.
        transform: image to tensor; draws, if it draws, from the global generators.
        seed: seeds the generators for each image together with its key; None leaves them alone.
        channels: 3 or 1, the colours the transform expects.
    """

    def __init__(
        self, source: Source, transform: Transform, seed: int | None = 0, channels: int = 3
    ) -> None:
        self.source = source
        self.transform = transform
        self.seed = seed
        self.channels = channels

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: int | tuple[int, ...]) -> Batch:
        """One image without the batch dimension; a bare index means epoch 0.

        Raises:
            ValueError: naming the file that is no readable image.
            OSError: if the file cannot be read.
        """
        full = Key(0, key) if isinstance(key, int) else Key(*key)
        with _generators_kept():
            image = self._view(full)
        label = int(self.source.labels[max(full.image, 0)])
        return {
            "image": image,
            "label": torch.tensor(label),
            "index": torch.tensor(full.image),
        }

    def fetch(self, keys: Sequence[Key]) -> Batch:
        """The views of several keys as one batch; raises as `__getitem__`."""
        with _generators_kept():
            views = [self._view(key) for key in keys]
        index = torch.tensor([key.image for key in keys])
        labels = self.source.labels[index.clamp(min=0).numpy()]
        return {
            # In a loader process this collates straight into shared memory.
            "image": default_collate(views),
            "label": torch.from_numpy(labels),
            "index": index,
        }

    def _view(self, key: Key) -> Tensor:
        row = max(key.image, 0)
        image = self.source.read(row, self.channels)
        if self.seed is not None:
            seed_generators(self.seed, key.epoch, row, key.repeat)
        return self.transform(image)


def train_dataset(source: Source, config: DataConfig, seed: int) -> ImageDataset:
    """A source with the training augmentation."""
    return ImageDataset(source, train_transform(config), seed, config.in_chans)


def eval_dataset(source: Source, config: DataConfig) -> ImageDataset:
    """A source with the fixed evaluation view."""
    return ImageDataset(source, eval_transform(config), None, config.in_chans)


def seed_generators(*numbers: int) -> None:
    """Seed Python's, numpy's and torch's CPU generators from a few whole numbers."""
    digest = hashlib.blake2b(struct.pack(f"{len(numbers)}q", *numbers), digest_size=24).digest()
    python, numpy, torch_ = struct.unpack("3Q", digest)
    random.seed(python)
    np.random.seed(numpy & 0xFFFFFFFF)
    # torch.manual_seed would also visit every accelerator; the transforms run on the CPU.
    torch.default_generator.manual_seed(torch_)


def key_generator(seed: int, key: Key) -> np.random.RandomState:
    """A generator of its own for each view of an image, a function of the seed and the key."""
    numbers = struct.pack("4q", seed, key.epoch, max(key.image, 0), key.repeat)
    digest = hashlib.blake2b(numbers, digest_size=16).digest()
    # RandomState's stream is frozen for all versions of numpy.
    return np.random.RandomState(np.frombuffer(digest, np.uint32))


@contextmanager
def _generators_kept() -> Iterator[None]:
    """In the main process the generators belong to the training loop: put them back."""
    if torch.utils.data.get_worker_info() is not None:
        yield
        return
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
