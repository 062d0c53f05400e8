"""Score a trained detector on annotated images: COCO metrics, JSON and report."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from convnext.data import EvalBatches, check_images, num_workers
from convnext.data.config import DetectionDataConfig
from convnext.data.detection import (
    DetectionSource,
    detection_dataset,
    open_detection,
    open_detection_for_evaluation,
)
from convnext.evaluate.coco import CocoMetrics
from convnext.evaluate.coco_files import write_results
from convnext.evaluate.coco_result import DetectionResult
from convnext.evaluate.detection_errors import find_errors
from convnext.models.mask_rcnn import Detections
from convnext.recipes.recipe import Recipe
from convnext.report.data import ReportData
from convnext.report.html import write_report
from convnext.run.detecting import detect_batch, detect_picture
from convnext.run.detection_conclusion import gallery, summary_line
from convnext.run.detection_loading import LoadedDetector, load_trained
from convnext.run.detection_scoring import mask_rles, score_detections
from convnext.run.evaluation import Split, default_out, same_place
from convnext.run.folder import command_line, say_line, versions, write_text
from convnext.run.loading import pick_device
from convnext.run.scoring import progress

__all__ = ["evaluate_objects"]

MAX_ROWS = 40  # of the table of classes


def evaluate_objects(
    target: str,
    *,
    data: str = "",
    split: Split = "auto",
    out: Path | None = None,
    tta: bool = False,
    batch_size: int = 1,
    workers: int = -1,
    device: str = "auto",
    say: Callable[[str], None] = say_line,
) -> DetectionResult:
    """Score what `target` names, print a table, and write scores, results and report.

    Args:
        target: What `load_trained` takes: a run, weights, a checkpoint, a published name.
        data: The annotated images; by default the run's own.
        split: Part of the data; "auto" is the test split of a run's own data if there is one, else
            its validation split, else its training images; of other data the validation split if
            there is one, else the test split, else everything.
        out: Folder to write to; by default `evaluate-SPLIT` in the run, else in `runs/`.
        tta: See each image at three sizes and mirrored; six times the time.
        batch_size: Images a batch.
        workers: Processes that read images, -1 = fit for this machine.
        device: "auto", "cpu", "cuda", ...
        say: Where the table goes.

    Raises:
        ValueError: The classes of weights and data differ, or there is no such split.
        OSError: Something cannot be read or written.
    """
    chosen = pick_device(device)
    loaded = load_trained(target, chosen)
    source, config, name = _open(loaded, data, split, workers)
    result = _score(loaded, source, config, chosen, tta=tta, batch_size=batch_size, name=name)
    say(class_table(result))
    say(f"{name}: {summary_line(result)}")
    out = out or default_out(loaded.run, target, name)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "evaluation.json", json.dumps(result.to_json(), indent=2) + "\n")
    written = write_results(result, out)
    truth = source.to_coco(loaded.labels)
    errors = find_errors(truth, result.results)
    write_report(
        ReportData(
            title=f"{loaded.title} on {Path(config.path).name or config.path}",
            created=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
            detection=result,
            errors=errors,
            split={"val": "validation", "all": "all images"}.get(name, name),
            detections=gallery(source, truth, result, errors),
            facts={"weights": target, "data": config.path, "images": f"{len(source):,}"},
            command=command_line(),
            versions=versions(),
        ),
        out / "report.html",
    )
    say(f"scores:  {out / 'evaluation.json'}")
    say(f"results: {', '.join(map(str, written))}")
    say(f"report:  {out / 'report.html'}")
    return result


def _open(
    loaded: LoadedDetector, data: str, split: Split, workers: int
) -> tuple[DetectionSource, DetectionDataConfig, str]:
    """The images to score, how they become tensors, and the name of the split."""
    if loaded.run is None and not data:
        raise ValueError("no images: --data DIR names the annotated images")
    recipe = Recipe.from_file(loaded.run.recipe_file) if loaded.run is not None else None
    if recipe is None or (data and not same_place(data, recipe.data.path)):
        config = replace(loaded.data, path=data, workers=workers)
        source, _, name = open_detection_for_evaluation(config, split, loaded.labels)
        return source, config, name
    config = replace(recipe.detect[1], workers=workers)
    splits = open_detection(config)
    if config.on_bad_image == "skip":  # else the run had no unreadable image
        splits = check_images(splits, config)
    if splits.classes != loaded.labels:
        raise ValueError(
            f"the classes of {config.path} are no longer those of {loaded.title}: "
            f"{', '.join(map(repr, sorted(set(splits.classes) ^ set(loaded.labels))[:8]))}"
        )
    parts = splits.named()
    name = next(n for n in ("test", "val", "train") if n in parts) if split == "auto" else split
    if name not in parts:
        raise ValueError(f"{config.path}: no split {name!r}; found: {', '.join(parts)}")
    return parts[name], config, name


def _score(
    loaded: LoadedDetector,
    source: DetectionSource,
    config: DetectionDataConfig,
    device: torch.device,
    *,
    tta: bool,
    batch_size: int,
    name: str,
) -> DetectionResult:
    """Scores on a source; masks count where network and data have them."""
    masks, title = loaded.network.config.masks and source.has_masks, f"scoring {name}"
    if not tta:
        batches = EvalBatches(
            detection_dataset(source, config, train=False),
            batch_size=batch_size,
            workers=num_workers(config.workers),
        )

        def detect(batch: dict[str, Any]) -> list[Detections]:
            return detect_batch(loaded.network, batch, device)

        return score_detections(
            detect, batches, source, loaded.labels, device, masks=masks, title=title
        )
    metrics = CocoMetrics(source.to_coco(loaded.labels), loaded.labels, masks=masks)
    for row in progress(range(len(source)), title, total=len(source)):
        picture = source.read(row, config.in_chans)
        found = detect_picture(loaded.network, picture, config, device)
        rles = mask_rles(found, source.size(row)) if masks else None
        metrics.update(source.image_id(row), *found[:3], rles)
    return metrics.compute()


def class_table(result: DetectionResult) -> str:
    """Objects and average precision of every class, or of the hardest if there are many."""
    scores = [s for s in result.per_class if s.num_objects]
    note = ""
    if len(scores) > MAX_ROWS:
        scores = sorted(scores, key=lambda s: s.box.AP or 0.0)[:MAX_ROWS]
        note = f"\n(the {MAX_ROWS} classes of lowest AP; evaluation.json holds all)"
    width = max([5, *(len(s.name) for s in scores)])
    lines = [f"{'class':<{width}}  objects  box AP   AP50  mask AP   AP50"]
    for s in scores:
        values = (s.box.AP, s.box.AP50, *((s.mask.AP, s.mask.AP50) if s.mask else (None, None)))
        cells = ["-" if v is None else f"{v:.1f}" for v in values]
        lines.append(
            "{:<{}}  {:>7}  {:>6}  {:>5}  {:>7}  {:>5}".format(s.name, width, s.num_objects, *cells)
        )
    return "\n".join(lines) + note
