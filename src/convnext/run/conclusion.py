"""The end of a run: final scores, weights for sharing, report."""

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from convnext.data import eval_dataset
from convnext.evaluate.cost import measure_cost
from convnext.evaluate.result import ClassificationResult
from convnext.models.backbone import Backbone
from convnext.recipes.recipe import to_dict
from convnext.report.data import ReportData
from convnext.report.html import write_report
from convnext.run.examples import examples
from convnext.run.folder import RunFolder, command_line, versions, write_text
from convnext.run.job import Job
from convnext.run.loading import preprocessing_of
from convnext.tasks.classify import ClassifyTask
from convnext.train import checkpoint
from convnext.train.engine import FitResult
from convnext.train.parallel import World, broadcast
from convnext.weights.checkpoint import is_convnext
from convnext.weights.saving import save_pretrained

__all__ = ["conclude"]

COST_BATCH = 16


def conclude(
    job: Job, folder: RunFolder, fit: FitResult, say: Callable[[str], None]
) -> dict[str, ClassificationResult]:
    """Score the best weights on the validation and test images, and write everything down.

    Every process takes part in the scoring; the first one writes.

    Returns:
        The scores by split.
    """
    task = _best_task(job, fit)
    results: dict[str, ClassificationResult] = {}
    for split in ("val", "test"):
        source = job.splits.named().get(split)
        if source is not None:
            results[split] = job.score(
                task, job.eval_batches(source), calibration=True, title=f"scoring {split}"
            )
    job.world.from_main(lambda: _write(job, folder, fit, task.network, results))
    for split, result in results.items():
        say(summary_line(split, result))
    say(f"weights: {folder.weights_dir}")
    say(f"report:  {folder.report_file}")
    return results


def summary_line(split: str, result: ClassificationResult) -> str:
    """The scores of a split in one line."""
    low, high = result.top1_interval
    return (
        f"{split}: top-1 {result.top1:.2f} % (95 % interval {low:.1f} to {high:.1f}) of "
        f"{result.num_images} images; always saying "
        f"{result.class_names[result.majority_class]!r} would reach {result.majority_top1:.2f} %"
    )


def _best_task(job: Job, fit: FitResult) -> ClassifyTask:
    """The task with the weights of the best evaluation, else with the last ones, everywhere."""
    recipe, world = job.recipe, job.world
    task = ClassifyTask(
        recipe.classify,
        num_classes=len(job.splits.classes),
        in_chans=recipe.images.in_chans,
        labels=job.splits.train.labels,
    )
    load_best(task, fit, world)
    return task


def load_best(task: nn.Module, fit: FitResult, world: World) -> None:
    """Give a task the weights of the best evaluation, else the last ones, on every process."""
    if world.is_main:
        path = fit.best_path or fit.last_path
        assert path is not None, "a finished run has a checkpoint"
        task.load_state_dict(best_state(path))
    task.to(world.device).eval().requires_grad_(False)
    broadcast(task, world)


def best_state(path: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint of the engine: the averaged ones where there are some."""
    saved = checkpoint.load(path)
    state: dict[str, Tensor] = saved.get("ema") or saved["task"]
    return state


def _write(
    job: Job,
    folder: RunFolder,
    fit: FitResult,
    network: Backbone,
    results: dict[str, ClassificationResult],
) -> None:
    """Weights, scores as JSON, report. A test split is what the report shows, if there is one."""
    recipe, splits = job.recipe, job.splits
    scores = {split: result.scalars() for split, result in results.items()}
    save_pretrained(
        network,
        folder.weights_dir,
        name=None if is_convnext(network.config) else recipe.classify.model,
        labels=splits.classes,
        preprocessing=preprocessing_of(recipe.images),
        extra={"scores": scores, "recipe": recipe.name},
    )
    values: dict[str, Any] = {"step": fit.step}
    values |= {split: result.to_json() for split, result in results.items()}
    write_text(folder.path / "evaluation.json", json.dumps(values, indent=2) + "\n")
    split = "test" if "test" in results else "val"
    shown = results.get(split)
    mistakes, correct = [], []
    if shown is not None:
        data = eval_dataset(splits.named()[split], recipe.images)
        device = job.world.device
        mistakes = examples(shown.worst, data, network, splits.classes, device)
        correct = examples(shown.correct, data, network, splits.classes, device)
    shape = (recipe.images.in_chans, recipe.images.image_size, recipe.images.image_size)
    cost = measure_cost(network, shape, batch_size=COST_BATCH, seconds=1.0).to_json()
    stored = folder.stored() or {}
    write_report(
        ReportData(
            title=f"{recipe.classify.model} on {Path(recipe.data.path).name or recipe.data.path}",
            created=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
            result=shown,
            split={"val": "validation", "test": "test"}[split],
            description=_description(job, fit),
            history=folder.history(),
            mistakes=mistakes,
            correct=correct,
            facts=_facts(job, fit, results),
            command=stored.get("command", command_line()),
            cost={**cost, "train_seconds": fit.seconds},
            recipe=to_dict(recipe),
            versions=versions(),
        ),
        folder.report_file,
    )


def _description(job: Job, fit: FitResult) -> str:
    recipe, splits = job.recipe, job.splits
    start = (
        f"from {recipe.classify.pretrained} weights"
        if recipe.classify.pretrained
        else "from scratch"
    )
    if recipe.classify.teacher:
        start += f", taught by {recipe.classify.teacher},"
    text = (
        f"{recipe.classify.model}, trained {start} on {len(splits.train):,} images of "
        f"{len(splits.classes)} classes for {recipe.optim.length} ({fit.step:,} steps)."
    )
    if splits.test is not None and splits.val is not None:
        text += (
            " The validation images decided which weights were kept; the test images were "
            "scored once, at the end."
        )
    return text


def _facts(job: Job, fit: FitResult, results: dict[str, ClassificationResult]) -> dict[str, str]:
    recipe, splits = job.recipe, job.splits
    facts = {
        "recipe": recipe.name,
        "network": recipe.classify.model,
        "data": recipe.images.path,
        "images": ", ".join(f"{name} {len(part):,}" for name, part in splits.named().items()),
        **({"teacher": recipe.classify.teacher} if recipe.classify.teacher else {}),
        "effective batch": str(recipe.optim.batch_size),
        "seed": str(recipe.train.seed),
        "device": f"{job.world.size} x {job.world.device}",
    }
    if splits.skipped:
        facts["unreadable images left out"] = str(len(splits.skipped))
    if fit.best is not None:
        facts["weights kept"] = f"{fit.best.weights} weights of step {fit.best.step}"
    for split, result in results.items():
        facts[f"top-1 on {split}"] = f"{result.top1:.2f} %"
    return facts
