"""Score a trained segmentation network on images with masks: JSON and report."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from convnext.data.config import SegmentationDataConfig
from convnext.data.detection.header import header_size
from convnext.data.scan import find_unreadable
from convnext.data.segmentation import (
    SegmentationSource,
    open_segmentation,
    open_segmentation_for_evaluation,
)
from convnext.evaluate.segmentation import SegmentationMetrics
from convnext.evaluate.segmentation_result import SegmentationResult
from convnext.recipes.recipe import Recipe
from convnext.report.data import ReportData
from convnext.report.html import write_report
from convnext.run.evaluation import Split, default_out, same_place
from convnext.run.folder import command_line, say_line, versions, write_text
from convnext.run.loading import pick_device
from convnext.run.scoring import progress
from convnext.run.segmentation_conclusion import gallery, seen_size, summary_line
from convnext.run.segmentation_loading import LoadedSegmenter, load_trained_segmenter
from convnext.run.segmentation_scoring import eval_batches, score_segments
from convnext.run.segmenting import check_views, segment_picture

__all__ = ["evaluate_segments"]

MAX_ROWS = 40  # of the table of classes


def evaluate_segments(
    target: str,
    *,
    data: str = "",
    split: Split = "auto",
    out: Path | None = None,
    tta: bool = False,
    image_size: int | None = None,
    masks: Literal["classes", "instances"] | None = None,
    reduce_zero_label: Literal["auto", "yes", "no"] | None = None,
    ignore_values: tuple[int, ...] | None = None,
    workers: int = -1,
    device: str = "auto",
    say: Callable[[str], None] = say_line,
) -> SegmentationResult:
    """Score what `target` names, print a table, and write scores and report.

    Args:
        target: What `load_trained_segmenter` takes: a run, weights, a checkpoint, a published name.
        data: The images with masks; by default the run's own.
        split: Part of the data; "auto" is the test split of a run's own data if there is one, else
            its validation split, else its training images; of other data the validation split if
            there is one, else the test split, else everything.
        out: Folder to write to; by default `evaluate-SPLIT` in the run, else in `runs/`.
        tta: See each image at six sizes and mirrored, whole, as the published multi-scale scores
            were measured.
        image_size: Short side of the images in pixels, 0 = their own size; by default that of
            training.
        masks: What values of masks mean, see `SegmentationDataConfig`; by default as in training.
            Likewise the next two.
        reduce_zero_label: Whether value 0 is ignored.
        ignore_values: Values that count for nothing.
        workers: Processes that read images, -1 = fit for this machine.
        device: "auto", "cpu", "cuda", ...
        say: Where the table goes.

    Raises:
        ValueError: The classes of weights and data differ, there is no such split, or an image is
            too large for `tta`.
        OSError: Something cannot be read or written.
    """
    chosen = pick_device(device)
    loaded = load_trained_segmenter(target, chosen)
    given = {
        "masks": masks,
        "reduce_zero_label": reduce_zero_label,
        "ignore_values": ignore_values,
    }
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    source, config, name = _open(loaded, data, split, {**changes, "workers": workers})
    source = _usable(source, config, say)
    if image_size is not None:
        config = config.at_short_side(image_size)
    result = _score(loaded, source, config, chosen, tta=tta, name=name)
    say(class_table(result))
    say(f"{name}: {summary_line(result)}")
    out = out or default_out(loaded.run, target, name)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "evaluation.json", json.dumps(result.to_json(), indent=2) + "\n")
    seen = "whole, at six sizes and mirrored" if tta else seen_size(config)
    write_report(
        ReportData(
            title=f"{loaded.title} on {Path(config.path).name or config.path}",
            created=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
            segmentation=result,
            split={"val": "validation", "all": "all images"}.get(name, name),
            segments=gallery(loaded.network, source, config, result, views=tta),
            facts={
                "weights": target,
                "data": config.path,
                "images": f"{len(source):,}",
                "scored at": seen,
            },
            command=command_line(),
            versions=versions(),
        ),
        out / "report.html",
    )
    say(f"scores:  {out / 'evaluation.json'}")
    say(f"report:  {out / 'report.html'}")
    return result


def _open(
    loaded: LoadedSegmenter, data: str, split: Split, changes: dict[str, Any]
) -> tuple[SegmentationSource, SegmentationDataConfig, str]:
    """The images to score, how they become tensors, and the name of the split."""
    if loaded.run is None and not data:
        raise ValueError("no images: --data DIR names the images with masks")
    recipe = Recipe.from_file(loaded.run.recipe_file) if loaded.run is not None else None
    if recipe is None or (data and not same_place(data, recipe.data.path)):
        known = recipe.segment[1] if recipe is not None else loaded.data
        config = replace(known, path=data, **changes)
        source, _, name = open_segmentation_for_evaluation(config, split, loaded.labels)
        return source, config, name
    config = replace(recipe.segment[1], **changes)
    splits = open_segmentation(config)
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


def _usable(
    source: SegmentationSource, config: SegmentationDataConfig, say: Callable[[str], None]
) -> SegmentationSource:
    """The images that can be read with their masks, if training left the others out, too."""
    if config.on_bad_image == "stop":
        return source
    bad = find_unreadable(source, label="checking images")
    if bad:
        say(f"{len(bad)} images that cannot be used are left out, the first: {min(bad.items())[1]}")
    return source.subset(np.setdiff1d(np.arange(len(source)), np.array(sorted(bad), np.int64)))


def _score(
    loaded: LoadedSegmenter,
    source: SegmentationSource,
    config: SegmentationDataConfig,
    device: torch.device,
    *,
    tta: bool,
    name: str,
) -> SegmentationResult:
    """Scores on a source."""
    title = f"scoring {name}"
    if not tta:
        batches = eval_batches(source, config)
        return score_segments(loaded.network, batches, config, loaded.labels, device, title=title)
    for row in range(0 if config.min_size else len(source)):  # before hours are spent on others
        size = header_size(source.path(row))
        check_views(source.name(row), size, len(loaded.labels), config)
    metrics = SegmentationMetrics(loaded.labels)
    for row in progress(range(len(source)), title, total=len(source)):
        picture = source.read(row, config.in_chans)
        said = segment_picture(loaded.network, picture, config, device, views=True)
        metrics.update(said, source.mask(row), row)
    return metrics.compute()


def class_table(result: SegmentationResult) -> str:
    """Pixels, IoU, Dice and accuracy of every class, or of the hardest if there are many."""
    rows = [
        row
        for row in zip(
            result.class_names,
            result.pixels,
            result.iou,
            result.dice,
            result.accuracy,
            strict=True,
        )
        if row[2] is not None
    ]
    note = ""
    if len(rows) > MAX_ROWS:
        rows = sorted(rows, key=lambda row: row[2] or 0.0)[:MAX_ROWS]
        note = f"\n(the {MAX_ROWS} classes of lowest IoU; evaluation.json holds all)"
    width = max([5, *(len(row[0]) for row in rows)])
    share = max(result.num_pixels, 1)
    lines = [f"{'class':<{width}}  pixels    IoU   Dice  accuracy"]
    for name, pixels, *scores in rows:
        cells = ["-" if v is None else f"{v:.1f}" for v in scores]
        part = f"{100 * pixels / share:.1f} %"
        lines.append("{:<{}}  {:>6}  {:>5}  {:>5}  {:>8}".format(name, width, part, *cells))
    return "\n".join(lines) + note
