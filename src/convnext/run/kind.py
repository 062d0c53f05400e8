"""What the training of one kind of task needs besides the engine."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convnext.data import Splits
from convnext.recipes.recipe import Recipe
from convnext.run.folder import RunFolder
from convnext.run.job import Job
from convnext.train.engine import FitResult
from convnext.train.hooks import Hook
from convnext.train.protocols import Batches, Evaluate, Task

__all__ = ["Kind", "Say"]

Say = Callable[[str], None]


def _no_hooks(job: Job, task: Task, folder: Path) -> list[Hook]:
    return []


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of task, as functions of a job.

    Attributes:
        open: The images that a recipe names, all of them readable.
        build: Network and loss; the second argument says whether a checkpoint will replace the
            weights.
        evaluator: What scores weights during the run, if anything can.
        batches: The training images in batches of the recipe's effective size.
        conclude: What is left in the folder at the end; gives the scores.
        hooks: Watchers of its own; the last argument is the folder of the run.
    """

    open: Callable[[Recipe], Splits[Any]]
    build: Callable[[Job, bool, Say], Task]
    evaluator: Callable[[Job], Evaluate | None]
    batches: Callable[[Job], Batches]
    conclude: Callable[[Job, RunFolder, FitResult, Say], Any]
    hooks: Callable[[Job, Task, Path], list[Hook]] = _no_hooks
