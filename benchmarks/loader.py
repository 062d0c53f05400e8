"""Images/s of the loader against a plain torchvision loop with the same pipeline.

The plain loop is what people write: ImageFolder, torchvision's transforms, a DataLoader. Ours adds
randomness that is a function of (seed, epoch, image), exact resume, and odd files read rightly.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import DataLoader
from torchvision import transforms as T
from torchvision.datasets import ImageFolder

from convnext.data import DataConfig, TrainBatches, open_splits
from convnext.data.config import AugmentConfig
from convnext.data.dataset import train_dataset
from convnext.evaluate.timing import interleaved, ratio

BATCH = 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def plain(folder: str, full: bool, workers: int) -> Iterator[Any]:
    """Torchvision's ImageFolder and DataLoader, endless."""
    steps: list[Any] = [
        T.RandomResizedCrop(224, interpolation=T.InterpolationMode.BICUBIC),
        T.RandomHorizontalFlip(),
    ]
    if full:
        steps.append(T.RandAugment(2, 9, interpolation=T.InterpolationMode.BICUBIC))
    steps += [T.ToTensor(), T.Normalize(MEAN, STD)]
    if full:
        steps.append(T.RandomErasing(0.25, value="random"))
    loader = DataLoader(
        ImageFolder(folder, T.Compose(steps)),
        batch_size=BATCH,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=workers > 0,
    )
    while True:
        yield from loader


def ours(config: DataConfig, workers: int) -> Iterator[Any]:
    source = open_splits(config).train
    batches = TrainBatches(train_dataset(source, config, 0), batch_size=BATCH, workers=workers)
    return batches.iterate(0)


def taker(stream: Iterator[Any]) -> Callable[[], object]:
    return lambda: next(stream)


def speed(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Images/s of both, crops and flips only and the whole recipe, with 0 and 2 workers."""
    if arguments.data is None:
        raise SystemExit("--data DIR: a folder with train/CLASS/*.jpg")
    torch.set_num_threads(1)
    rows = []
    for full in (False, True):
        augment = AugmentConfig() if full else replace(
            AugmentConfig(), rand_augment="", erase_prob=0.0
        )  # fmt: skip
        config = DataConfig(path=str(arguments.data), augment=augment)
        for workers in (0, 2):
            sides = {
                "convnext": taker(ours(config, workers)),
                "torchvision": taker(plain(f"{arguments.data}/train", full, workers)),
            }
            times = interleaved(sides, rounds=arguments.rounds, seconds=arguments.seconds)
            row = {
                **{"augmentation": "whole recipe" if full else "crop and flip"},
                **{"workers": workers},
                **{f"{s}_images_per_second": round(BATCH / min(t)) for s, t in times.items()},
                "ratio": round(ratio(times, ["convnext"], ["torchvision"]), 3),
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows
