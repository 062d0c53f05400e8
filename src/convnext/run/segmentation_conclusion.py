"""The end of a run of segmentation: final scores, weights for sharing, report."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import torch

from convnext.data.config import SegmentationDataConfig
from convnext.data.segmentation import SegmentationSource, trained_rows
from convnext.evaluate.segmentation_result import SegmentationResult
from convnext.models.upernet import UPerNet
from convnext.recipes.recipe import to_dict
from convnext.report.data import ReportData, SegmentationExample
from convnext.report.html import write_report
from convnext.report.segmentation_example import segmentation_example
from convnext.run.conclusion import load_best
from convnext.run.folder import RunFolder, command_line, versions, write_text
from convnext.run.job import Job
from convnext.run.kind import Say
from convnext.run.segmentation_loading import new_segment_task, preprocessing_of, reading_of
from convnext.run.segmentation_scoring import score_split
from convnext.run.segmenting import segment_picture
from convnext.tasks.segment import SegmentTask
from convnext.train.engine import FitResult
from convnext.weights.segmentation import save_segmenter

__all__ = ["conclude", "gallery", "seen_size", "summary_line"]

SHOWN = 12  # images of the gallery


def conclude(
    job: Job, folder: RunFolder, fit: FitResult, say: Say
) -> dict[str, SegmentationResult]:
    """Score the best weights on the validation and test images, and write everything down.

    Every process takes part in the scoring; the first one writes.

    Returns:
        The scores by split.
    """
    task = new_segment_task(job.recipe, len(job.splits.classes))
    load_best(task, fit, job.world)
    results = {
        name: score_split(job, task, cast(SegmentationSource, source), title=f"scoring {name}")
        for name, source in job.splits.named().items()
        if name != "train"
    }
    job.world.from_main(lambda: _write(job, folder, fit, task, results))
    for split, result in results.items():
        say(f"{split}: {summary_line(result)}")
    say(f"weights: {folder.weights_dir}")
    say(f"report:  {folder.report_file}")
    return results


def summary_line(result: SegmentationResult) -> str:
    """The scores in one line."""
    scored = sum(iou is not None for iou in result.iou)
    return (
        f"mIoU {_number(result.miou)} ({scored} classes), mean accuracy "
        f"{_number(result.mean_accuracy)}, pixels right {_number(result.pixel_accuracy)} "
        f"({result.num_images:,} images)"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def seen_size(data: SegmentationDataConfig) -> str:
    """How large images are seen, in words."""
    size = f"short side {data.min_size} px, the long one at most {data.max_size}"
    windows = f"windows of {data.window} px every {data.stride}" if data.window else "at once"
    return f"{size if data.min_size else 'their own size'}; {windows}"


def gallery(
    network: UPerNet,
    source: SegmentationSource,
    data: SegmentationDataConfig,
    result: SegmentationResult,
    *,
    views: bool = False,
    most: int = SHOWN,
) -> list[SegmentationExample]:
    """The images of lowest mIoU, with what is there and what was said."""
    device = next(network.parameters()).device
    drawn = []
    for image in result.worst(most):
        picture = source.read(image.index, data.in_chans)
        drawn.append(
            segmentation_example(
                picture,
                source.mask(image.index),
                segment_picture(network, picture, data, device, views=views),
                result.class_names,
                name=Path(source.name(image.index)).name,
            )
        )
    return drawn


def _write(
    job: Job,
    folder: RunFolder,
    fit: FitResult,
    task: SegmentTask,
    results: dict[str, SegmentationResult],
) -> None:
    """Weights, scores as JSON, report. A test split is what the report shows, if there is one."""
    recipe, splits = job.recipe, job.splits
    config, data = recipe.segment
    save_segmenter(
        task.network,
        folder.weights_dir,
        labels=splits.classes,
        preprocessing=preprocessing_of(data),
        extra={
            "scores": {split: result.scalars() for split, result in results.items()},
            "recipe": recipe.name,
            "reading": reading_of(data),
        },
    )
    values: dict[str, Any] = {"step": fit.step}
    values |= {split: result.to_json() for split, result in results.items()}
    write_text(folder.path / "evaluation.json", json.dumps(values, indent=2) + "\n")
    split = "test" if "test" in results else "val"
    shown = results.get(split)
    drawn: list[SegmentationExample] = []
    if shown is not None:
        source = cast(SegmentationSource, splits.named()[split])
        with torch.no_grad():
            drawn = gallery(task.network, source, data, shown)
    stored = folder.stored() or {}
    trained = len(trained_rows(cast(SegmentationSource, splits.train), data)[0])
    write_report(
        ReportData(
            title=f"{config.model} on {Path(data.path).name or data.path}",
            created=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
            segmentation=shown,
            split={"val": "validation", "test": "test"}[split],
            description=_description(job, fit, trained),
            history=folder.history(),
            segments=drawn,
            facts=_facts(job, fit, results, trained),
            command=stored.get("command", command_line()),
            cost={"train_seconds": fit.seconds},
            recipe=to_dict(recipe),
            versions=versions(),
        ),
        folder.report_file,
    )


def _description(job: Job, fit: FitResult, trained: int) -> str:
    recipe = job.recipe
    config, _ = recipe.segment
    start = f"from {config.pretrained} weights" if config.pretrained else "from scratch"
    return (
        f"{config.model}, trained {start} on {trained:,} images of "
        f"{len(job.splits.classes)} classes for {recipe.optim.length} ({fit.step:,} steps)."
    )


def _facts(
    job: Job, fit: FitResult, results: dict[str, SegmentationResult], trained: int
) -> dict[str, str]:
    recipe, splits = job.recipe, job.splits
    config, data = recipe.segment
    facts = {
        "recipe": recipe.name,
        "network": config.model,
        "data": data.path,
        "images": ", ".join(f"{name} {len(part):,}" for name, part in splits.named().items()),
        "training crops": f"{data.crop_size} px",
        "scored at": seen_size(data),
        "effective batch": str(recipe.optim.batch_size),
        "seed": str(recipe.train.seed),
        "device": f"{job.world.size} x {job.world.device}",
    }
    if trained < len(splits.train):
        facts["training images wholly ignored"] = f"{len(splits.train) - trained:,}"
    if splits.skipped:
        facts["unreadable images left out"] = str(len(splits.skipped))
    if fit.best is not None:
        facts["weights kept"] = f"{fit.best.weights} weights of step {fit.best.step}"
    for split, result in results.items():
        facts[f"scores on {split}"] = summary_line(result)
    return facts
