"""Batches for training (endless, resumable at any step) and for evaluation (every image once)."""

from collections.abc import Iterator, Sequence
from typing import Any, Generic, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypeVar

from convnext.data.dataset import PADDING, Batch, Key
from convnext.data.loading import Loader
from convnext.data.sampling import balanced_order, epoch_order
from convnext.data.source import Source

B = TypeVar("B", default=Batch)
B_co = TypeVar("B_co", covariant=True)

# The images of an epoch in their order, and how often each was drawn before.
Order = tuple[NDArray[np.int64], NDArray[np.int64]]


class Dataset(Protocol[B_co]):
    """Views of the images of a source, many at a time, as a function of their keys."""

    @property
    def source(self) -> Source:
        """Where the images come from; keys number its images."""

    def __len__(self) -> int: ...

    def fetch(self, keys: Sequence[Key]) -> B_co:
        """The views of several keys as one batch."""


class TrainBatches(Generic[B]):
    """Micro-batches of the effective batches of a training run, for one of `world` processes.

    Step s belongs to epoch e = s // steps_per_epoch. Its effective batch is a slice of the order of
    epoch e, a function of (seed, e) alone: the same images for any number of processes, workers or
    accumulated micro-batches. Micro-step a of process r takes micro-batch a * world + r of it.
    Where the source knows `shapes`, the effective batch is sorted by them first.

    Args:
        dataset: the training images.
        batch_size: images per optimiser step, over all processes.
        micro_batch: most images per process and micro-step (None = no limit).
        world: number of processes.
        rank: this process, 0..world-1.
        seed: of the order.
        workers: loader processes, 0 = load in the training process.
        sampling: "uniform", or "balanced" to draw each class equally often.
        even: keep the micro-batch even (Mixup pairs images).

    Attributes:
        micro_batch: images per process and micro-step.
        accum: micro-steps per optimiser step, the least that respects the limit;
            world * micro_batch * accum = batch_size.
        steps_per_epoch: num_samples // batch_size; the left-over images of an epoch are dropped.

    Raises:
        ValueError: if the batch cannot be shared out evenly, or there are fewer images than one
            batch.
    """

    def __init__(
        self,
        dataset: Dataset[B],
        *,
        batch_size: int,
        micro_batch: int | None = None,
        world: int = 1,
        rank: int = 0,
        seed: int = 0,
        workers: int = 0,
        sampling: Literal["uniform", "balanced"] = "uniform",
        even: bool = False,
    ) -> None:
        assert 0 <= rank < world, "rank is one of the processes"
        self.micro_batch, self.accum = plan_accumulation(
            batch_size, micro_batch, world=world, even=even
        )
        self.num_samples = len(dataset)
        self.batch_size = batch_size
        self.steps_per_epoch = self.num_samples // batch_size
        if not self.steps_per_epoch:
            raise ValueError(
                f"batch size {batch_size} is larger than the {self.num_samples} training images; "
                f"choose at most {self.num_samples}"
            )
        self._dataset = dataset
        self._world, self._rank = world, rank
        self._seed = seed
        self._workers = workers
        self._sampling = sampling

    def iterate(self, start_step: int = 0) -> Iterator[B]:
        """Micro-batches from a step on, without end; number k belongs to step start + k // accum.

        Raises:
            ValueError: naming the file that is no readable image.
            OSError: if a file cannot be read.
        """
        return iter(Loader(self._dataset.fetch, _Keys(self, start_step), workers=self._workers))

    def keys(self, step: int, orders: dict[int, Order] | None = None) -> list[list[Key]]:
        """This process's micro-batches of one step; `orders` keeps the current epoch's order."""
        orders = {} if orders is None else orders
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch not in orders:
            orders.clear()
            orders[epoch] = self._order(epoch)
        images, repeats = orders[epoch]
        whole = slice(place * self.batch_size, (place + 1) * self.batch_size)
        images, repeats = images[whole], repeats[whole]
        shapes = self._dataset.source.shapes
        if shapes is not None:
            by_shape = np.argsort(shapes[images], kind="stable")
            images, repeats = images[by_shape], repeats[by_shape]
        micros = []
        for micro in range(self.accum):
            start = (micro * self._world + self._rank) * self.micro_batch
            span = slice(start, start + self.micro_batch)
            pairs = zip(images[span].tolist(), repeats[span].tolist(), strict=True)
            micros.append([Key(epoch, image, repeat) for image, repeat in pairs])
        return micros

    def _order(self, epoch: int) -> Order:
        source = self._dataset.source
        if self._sampling == "balanced":
            return balanced_order(source.labels, self._seed, epoch)
        order = epoch_order(self.num_samples, self._seed, epoch, block=source.read_block)
        return order, np.zeros_like(order)


class _Keys:
    """The endless stream of micro-batches of keys; starts anew at each iteration."""

    def __init__(self, batches: TrainBatches[Any], start_step: int) -> None:
        self._batches = batches
        self._start = start_step

    def __iter__(self) -> Iterator[list[Key]]:
        orders: dict[int, Order] = {}
        step = self._start
        while True:
            yield from self._batches.keys(step, orders)
            step += 1


class EvalBatches(Generic[B]):
    """Every image once, shared by `world` processes; can be iterated again and again.

    Process r takes images r, r + world, ... Every process gets the same number of equally large
    batches: short shares are filled up with entries of index -1, which do not count.

    Args:
        dataset: the images.
        batch_size: images per batch of one process.
        world: number of processes.
        rank: this process, 0..world-1.
        workers: loader processes; they stay between passes.
    """

    def __init__(
        self,
        dataset: Dataset[B],
        *,
        batch_size: int,
        world: int = 1,
        rank: int = 0,
        workers: int = 0,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch size {batch_size}: give at least 1")
        self.num_samples = len(dataset)
        indices = list(range(rank, len(dataset), world))
        share = -(-len(dataset) // world)
        indices += [PADDING] * (share - len(indices))
        keys = [Key(0, index) for index in indices]
        self._batches = [keys[i : i + batch_size] for i in range(0, share, batch_size)]
        self._loader = Loader(dataset.fetch, self._batches, workers=workers)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[B]:
        return iter(self._loader)


def plan_accumulation(
    batch_size: int, limit: int | None = None, *, world: int = 1, even: bool = False
) -> tuple[int, int]:
    """Images per micro-step and process, and micro-steps per step, that make up a batch.

    The least `accum` with world * micro * accum = batch_size and micro <= limit (and micro even).

    Returns:
        (micro, accum).

    Raises:
        ValueError: naming the nearest batch sizes that can be shared out.
    """
    if batch_size < 1 or (limit is not None and limit < 1):
        raise ValueError(f"batch size {batch_size}, micro-batch {limit}: give at least 1")
    unit = world * (2 if even else 1)
    if limit is not None and even and limit < 2:
        raise ValueError("micro-batch 1: mixup pairs images, so allow at least 2")
    if batch_size % unit:
        below, above = batch_size // unit * unit, -(-batch_size // unit) * unit
        nearest = f"{below} or {above}" if below else f"{above}"
        parts = f"{world} processes" + (" in even parts (mixup pairs images)" if even else "")
        raise ValueError(
            f"batch size {batch_size} cannot be shared by {parts}; the nearest that can: {nearest}"
        )
    share = batch_size // world
    micro = next(
        size
        for size in range(min(share, limit or share), 0, -1)
        if share % size == 0 and not (even and size % 2)
    )
    return micro, share // micro
