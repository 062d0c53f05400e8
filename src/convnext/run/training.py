"""Train a recipe: data, task, engine, and what is left of it in the folder of the run."""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from convnext.data import Splits
from convnext.recipes.recipe import Recipe, to_dict
from convnext.run.classification import CLASSIFICATION
from convnext.run.detection import DETECTION
from convnext.run.folder import RunFolder, say_line
from convnext.run.job import Job
from convnext.run.pretraining import PRETRAINING
from convnext.run.segmentation import SEGMENTATION
from convnext.tasks.classify import ClassifyConfig
from convnext.tasks.detect import DetectConfig
from convnext.tasks.pretrain import PretrainConfig
from convnext.tasks.segment import SegmentConfig
from convnext.train.engine import Engine
from convnext.train.hooks import default_hooks
from convnext.train.parallel import World, cleanup, setup
from convnext.train.randomness import seed_all

__all__ = ["train"]

KINDS = {
    ClassifyConfig: CLASSIFICATION,
    PretrainConfig: PRETRAINING,
    DetectConfig: DETECTION,
    SegmentConfig: SEGMENTATION,
}


def train(
    recipe: Recipe, out: Path, *, reasons: Sequence[str] = (), say: Callable[[str], None] = say_line
) -> Any:
    """Train, evaluate, and write weights and report; goes on where an earlier process stopped.

    Validation images decide which weights are kept; test images are scored once, at the end.

    Args:
        recipe: What to train on what, how.
        out: Folder of the run.
        reasons: Why the recipe was chosen, to be shown.
        say: Where messages go.

    Returns:
        Of classification the scores by split ("val", "test"), as far as there are such splits; of
        pre-training the loss by split.

    Raises:
        ValueError: The data, the recipe or the folder are not fit for it.
        OSError: Something cannot be read or written.
    """
    world = setup(recipe.train.device)
    try:
        return _train(recipe, RunFolder(out), world, reasons, say if world.is_main else _silent)
    finally:
        cleanup(world)


def _silent(_: str) -> None:
    """Only the first process speaks."""


def _train(
    recipe: Recipe,
    folder: RunFolder,
    world: World,
    reasons: Sequence[str],
    say: Callable[[str], None],
) -> Any:
    kind = KINDS[type(recipe.task)]
    if not world.is_main:
        logging.getLogger("convnext").setLevel(logging.ERROR)
    for reason in reasons:
        say(f"- {reason}")
    splits = world.from_main(lambda: kind.open(recipe))
    if splits.skipped:
        say(f"{len(splits.skipped)} unreadable images are left out:")
        for name in splits.skipped[:20]:
            say(f"  {name}")
    facts = {
        "classes": list(splits.classes),
        "images": {name: len(source) for name, source in splits.named().items()},
        "skipped": len(splits.skipped),
    }
    resumed = world.from_main(lambda: folder.check(recipe, facts))
    job = Job(recipe, splits, world)
    seed_all(recipe.train.seed)
    task = kind.build(job, resumed, say)
    engine = Engine(
        task,
        kind.batches(job),
        recipe.optim,
        recipe.train,
        run_dir=folder.path,
        world=world,
        evaluate=kind.evaluator(job),
        recipe=_engine_recipe(recipe, splits),
        hooks=[*default_hooks(folder.path), *kind.hooks(job, task, folder.path)],
    )
    if not resumed:
        world.from_main(lambda: folder.create(recipe, facts))
    with ExitStack() as stack:
        world.from_main(lambda: stack.enter_context(folder.locked()))
        return kind.conclude(job, folder, engine.fit(), say)


def _engine_recipe(recipe: Recipe, splits: Splits) -> dict[str, Any]:
    """What a checkpoint knows of its run: all but where the images lie."""
    data = to_dict(replace(recipe.data, path=""))
    return {"task": to_dict(recipe.task), "data": data, "classes": list(splits.classes)}
