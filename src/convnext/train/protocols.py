"""What the engine asks of a task, of batches and of an evaluation, and nothing more."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from torch import Tensor, nn

from convnext.train.config import OptimConfig

Batch = dict[str, Any]
Evaluate = Callable[[nn.Module], dict[str, float]]
"""Scores of a task's weights: numbers to log, among them "score" (higher is better)."""


class Task(Protocol):
    """An `nn.Module` that holds network and loss.

    It may have texts `training_memory` and `evaluation_memory`: what helps where memory does not
    suffice.
    """

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars of a micro-batch: "loss", to minimise, and any parts worth logging."""

    def param_groups(self, optim: OptimConfig) -> list[dict[str, Any]]:
        """Optimiser groups that hold every trainable parameter exactly once."""

    def shard_modules(self) -> list[nn.Module]:
        """Modules that FSDP gathers one at a time, inner ones first."""


class Batches(Protocol):
    """Endless training data, cut into optimiser steps and micro-batches.

    `batch_size` images per step are `accum` micro-batches of `micro_batch` images on every process.
    """

    @property
    def num_samples(self) -> int:
        """Images per epoch."""

    @property
    def batch_size(self) -> int:
        """Images per optimiser step, over all processes."""

    @property
    def micro_batch(self) -> int:
        """Images per process and forward pass."""

    @property
    def accum(self) -> int:
        """Micro-batches per step."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps per epoch; what is left over is not used."""

    def iterate(self, start_step: int) -> Iterator[Batch]:
        """Micro-batches from step `start_step` on, a function of the step alone."""
