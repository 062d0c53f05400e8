"""The end of a run of detection: final scores, weights for sharing, report."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from convnext.data.config import DetectionDataConfig
from convnext.data.detection import DetectionSource
from convnext.evaluate.coco_files import write_results
from convnext.evaluate.coco_result import DetectionResult
from convnext.evaluate.detection_errors import DetectionErrors, find_errors
from convnext.recipes.recipe import to_dict
from convnext.report.data import DetectionExample, ReportData
from convnext.report.detection_example import detection_example
from convnext.report.html import write_report
from convnext.run.conclusion import load_best
from convnext.run.detection_loading import new_task
from convnext.run.detection_scoring import score_split
from convnext.run.folder import RunFolder, command_line, versions, write_text
from convnext.run.job import Job
from convnext.run.kind import Say
from convnext.tasks.detect import DetectTask
from convnext.train.engine import FitResult
from convnext.weights.detection import DetectorPreprocessing, save_detector

__all__ = ["conclude", "gallery", "preprocessing_of", "summary_line"]

SHOWN = 12  # images of the gallery


def conclude(job: Job, folder: RunFolder, fit: FitResult, say: Say) -> dict[str, DetectionResult]:
    """Score the best weights on the validation and test images, and write everything down.

    Every process takes part in the scoring; the first one writes.

    Returns:
        The scores by split.
    """
    task = new_task(job.recipe, len(job.splits.classes))
    load_best(task, fit, job.world)
    results = {
        name: score_split(job, task, cast(DetectionSource, source), title=f"scoring {name}")
        for name, source in job.splits.named().items()
        if name != "train"
    }
    job.world.from_main(lambda: _write(job, folder, fit, task, results))
    for split, result in results.items():
        say(f"{split}: {summary_line(result)}")
    say(f"weights: {folder.weights_dir}")
    say(f"report:  {folder.report_file}")
    return results


def summary_line(result: DetectionResult) -> str:
    """The scores in one line."""
    parts = [f"box AP {_number(result.box.AP)}, AP50 {_number(result.box.AP50)}"]
    if result.mask is not None:
        parts.append(f"mask AP {_number(result.mask.AP)}, AP50 {_number(result.mask.AP50)}")
    return f"{'; '.join(parts)} ({result.num_objects:,} objects in {result.num_images:,} images)"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def preprocessing_of(data: DetectionDataConfig) -> DetectorPreprocessing:
    """What images need, as it is stored with weights."""
    return DetectorPreprocessing(
        min_size=data.min_size,
        max_size=data.max_size,
        mean=data.channel_mean,
        std=data.channel_std,
    )


def gallery(
    source: DetectionSource,
    truth: Mapping[str, Any],
    result: DetectionResult,
    errors: DetectionErrors,
    *,
    most: int = SHOWN,
) -> list[DetectionExample]:
    """The images with most errors, drawn with what is there and what was said."""
    rows = {source.image_id(i): i for i in range(len(source))}
    masks = result.mask_results is not None
    return [
        detection_example(
            source.read(rows[image.image_id], 3),
            image,
            result.class_names,
            name=Path(source.name(rows[image.image_id])).name,
            annotations=truth["annotations"] if masks else None,
            mask_results=result.mask_results,
        )
        for image in errors.worst[:most]
    ]


def _write(
    job: Job,
    folder: RunFolder,
    fit: FitResult,
    task: DetectTask,
    results: dict[str, DetectionResult],
) -> None:
    """Weights, scores as JSON, report. A test split is what the report shows, if there is one."""
    recipe, splits = job.recipe, job.splits
    _, data = recipe.detect
    scores = {split: result.scalars() for split, result in results.items()}
    ids = list(cast(DetectionSource, splits.train).category_ids)
    save_detector(
        task.network,
        folder.weights_dir,
        labels=splits.classes,
        preprocessing=preprocessing_of(data),
        extra={"scores": scores, "recipe": recipe.name, "category_ids": ids},
    )
    values: dict[str, Any] = {"step": fit.step}
    values |= {split: result.to_json() for split, result in results.items()}
    write_text(folder.path / "evaluation.json", json.dumps(values, indent=2) + "\n")
    split = "test" if "test" in results else "val"
    shown = results.get(split)
    errors: DetectionErrors | None = None
    drawn: Sequence[DetectionExample] = ()
    if shown is not None:
        write_results(shown, folder.path)
        source = cast(DetectionSource, splits.named()[split])
        truth = source.to_coco(splits.classes)
        errors = find_errors(truth, shown.results)
        drawn = gallery(source, truth, shown, errors)
    stored = folder.stored() or {}
    write_report(
        ReportData(
            title=f"{recipe.detect[0].model} on {Path(data.path).name or data.path}",
            created=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
            detection=shown,
            errors=errors,
            split={"val": "validation", "test": "test"}[split],
            description=_description(job, fit),
            history=folder.history(),
            detections=drawn,
            facts=_facts(job, fit, results),
            command=stored.get("command", command_line()),
            cost={"train_seconds": fit.seconds},
            recipe=to_dict(recipe),
            versions=versions(),
        ),
        folder.report_file,
    )


def _description(job: Job, fit: FitResult) -> str:
    recipe = job.recipe
    start = f"from {recipe.detect[0].pretrained} weights" * bool(recipe.detect[0].pretrained)
    return (
        f"{recipe.detect[0].model}, trained {start or 'from scratch'} on "
        f"{len(job.splits.train):,} images of {len(job.splits.classes)} classes for "
        f"{recipe.optim.length} ({fit.step:,} steps)."
    )


def _facts(job: Job, fit: FitResult, results: dict[str, DetectionResult]) -> dict[str, str]:
    recipe, splits = job.recipe, job.splits
    config, data = recipe.detect
    facts = {
        "recipe": recipe.name,
        "detector": config.model,
        "data": data.path,
        "images": ", ".join(f"{name} {len(part):,}" for name, part in splits.named().items()),
        "short side": f"{data.min_size} px, the long one at most {data.max_size}",
        "effective batch": str(recipe.optim.batch_size),
        "seed": str(recipe.train.seed),
        "device": f"{job.world.size} x {job.world.device}",
    }
    if splits.skipped:
        facts["unreadable images left out"] = str(len(splits.skipped))
    if fit.best is not None:
        facts["weights kept"] = f"{fit.best.weights} weights of step {fit.best.step}"
    for split, result in results.items():
        facts[f"scores on {split}"] = summary_line(result)
    return facts
