"""Score a trained network on labelled images: table, JSON and report."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from convnext.data import (
    DataConfig,
    EvalBatches,
    Source,
    eval_dataset,
    num_workers,
    open_for_evaluation,
    open_splits,
)
from convnext.evaluate.cost import measure_cost
from convnext.evaluate.result import ClassificationResult
from convnext.recipes.recipe import Recipe
from convnext.report.data import ReportData
from convnext.report.html import write_report
from convnext.run.calibrating import accuracy_drop, calibration_images, check_calibration
from convnext.run.conclusion import COST_BATCH, summary_line
from convnext.run.engines import Engine, Running, running
from convnext.run.examples import examples
from convnext.run.folder import RunFolder, command_line, say_line, versions, write_text
from convnext.run.loading import Loaded, data_config, load_network, pick_device
from convnext.run.scoring import score

__all__ = ["Split", "default_out", "evaluate", "same_place"]

Split = Literal["auto", "train", "val", "test", "all"]
MAX_ROWS = 40  # of the table of classes


def evaluate(
    target: str,
    *,
    data: str = "",
    split: Split = "auto",
    out: Path | None = None,
    batch_size: int = 64,
    workers: int = -1,
    device: str = "auto",
    engine: Engine = "auto",
    calibrate: Path | None = None,
    say: Callable[[str], None] = say_line,
) -> ClassificationResult:
    """Score what `target` names, print a table, and write `evaluation.json` and `report.html`.

    Args:
        target: What `load_network` takes: a run, weights, a checkpoint, a published name.
        data: The labelled images; by default the run's own.
        split: Part of the data; "auto" is the test split if there is one, else validation, else
            everything. Of a run's own data the parts are those of the run.
        out: Folder to write to; by default `evaluate-SPLIT` in the run, else in `runs/`.
        batch_size: Images a batch.
        workers: Processes that read images, -1 = fit for this machine.
        device: "auto", "cpu", "cuda", ...
        engine: What computes the scores, see `engines.running`; "int8" is compared with fp32.
        calibrate: A folder of images for the engine "int8".
        say: Where the table goes.

    Raises:
        ValueError: The classes of weights and data differ, there is no such split, or the
            engine cannot run the network.
        OSError: Something cannot be read or written.
    """
    check_calibration(engine, calibrate)
    chosen = pick_device(device)
    loaded = load_network(target, chosen)
    source, config, name = _open(loaded, data, split, workers)
    dataset = eval_dataset(source, config)
    batches = EvalBatches(dataset, batch_size=batch_size, workers=num_workers(workers))
    network = loaded.network
    engine_run = running(network, engine, calibration_images(loaded, calibrate, workers))
    result = _score(engine_run, batches, loaded, f"scoring {name}")
    facts = {"engine": f"{engine_run.engine} ({engine_run.reason})"}
    if engine == "int8":
        exact = _score(running(network), batches, loaded, f"scoring {name} in fp32")
        facts |= accuracy_drop(exact, result, engine_run.report, say)
    del engine_run  # and its packed weights: what follows needs the network itself
    say(class_table(result))
    say(summary_line(name, result))
    say(calibration_line(result))
    out = out or default_out(loaded.run, target, name)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "evaluation.json", json.dumps(result.to_json(), indent=2) + "\n")
    shape = (config.in_chans, config.image_size, config.image_size)
    write_report(
        ReportData(
            title=f"{loaded.title} on {Path(config.path).name or config.path}",
            created=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
            result=result,
            split={"val": "validation", "all": "all images"}.get(name, name),
            mistakes=examples(result.worst, dataset, network, loaded.labels, chosen),
            correct=examples(result.correct, dataset, network, loaded.labels, chosen),
            facts={
                "weights": target,
                "data": config.path,
                "images": f"{len(source):,}",
                **facts,
            },
            command=command_line(),
            cost=measure_cost(loaded.network, shape, batch_size=COST_BATCH, seconds=1.0).to_json(),
            versions=versions(),
        ),
        out / "report.html",
    )
    say(f"scores: {out / 'evaluation.json'}")
    say(f"report: {out / 'report.html'}")
    return result


def _score(run: Running, batches: EvalBatches, loaded: Loaded, title: str) -> ClassificationResult:
    def logits(batch: dict[str, Any]) -> Tensor:
        return run.logits(batch["image"])

    device = next(loaded.network.parameters()).device
    return score(logits, batches, loaded.labels, device, title=title)


def _open(loaded: Loaded, data: str, split: Split, workers: int) -> tuple[Source, DataConfig, str]:
    """The images to score, how they become tensors, and the name of the split."""
    chans = loaded.network.config.in_chans
    recipe = Recipe.from_file(loaded.run.recipe_file) if loaded.run is not None else None
    if not data and recipe is None:
        raise ValueError("no images: --data DIR names the labelled images")
    if recipe is not None and (not data or same_place(data, recipe.images.path)):
        return _open_own(loaded, replace(recipe.images, workers=workers), split)
    config = data_config(loaded.preprocessing, chans, path=data, workers=workers)
    source, classes, name = open_for_evaluation(
        config, split, loaded.labels if loaded.named else None
    )
    if len(classes) != len(loaded.labels):
        raise ValueError(
            f"{data} has {len(classes)} classes, {loaded.title} has {len(loaded.labels)} and does "
            "not say which; evaluate on data with the classes that it was trained on"
        )
    return source, config, name


def _open_own(loaded: Loaded, config: DataConfig, split: Split) -> tuple[Source, DataConfig, str]:
    """A part of a run's own data, divided as in the run."""
    splits = open_splits(config)
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


def same_place(one: str, other: str) -> bool:
    """Whether two names of data mean the same place."""
    return one == other or Path(one).expanduser().resolve() == Path(other).expanduser().resolve()


def default_out(run: RunFolder | None, target: str, split: str) -> Path:
    """Where scores go: into the run, else into a folder of their own in `runs/`."""
    if run is not None:
        return run.path / f"evaluate-{split}"
    name = re.sub(r"[^\w.-]+", "_", Path(target).name)
    return Path("runs") / f"evaluate-{name}-{split}"


def class_table(result: ClassificationResult) -> str:
    """Count, precision, recall and F1 of every class, or of the hardest if there are many."""
    scores = list(result.per_class)
    note = ""
    if len(scores) > MAX_ROWS:
        scores = sorted((s for s in scores if s.count), key=lambda s: s.f1 or 0.0)[:MAX_ROWS]
        note = f"\n(the {len(scores)} classes of lowest F1; evaluation.json holds all)"
    width = max(5, *(len(s.name) for s in scores))
    lines = [f"{'class':<{width}}  images  precision  recall     F1"]
    for s in scores:
        cells = ("-" if v is None else f"{v:.3f}" for v in (s.precision, s.recall, s.f1))
        lines.append("{:<{}}  {:>6}  {:>9}  {:>6}  {:>5}".format(s.name, width, s.count, *cells))
    return "\n".join(lines) + note


def calibration_line(result: ClassificationResult) -> str:
    """Top-5, loss, and how far confidence can be believed."""
    text = (
        f"top-{result.k} {result.top5:.2f} %, loss {result.loss:.4f}, "
        f"expected calibration error {100 * result.ece:.2f} %"
    )
    fit = result.temperature
    if fit is not None:
        text += (
            f" (temperature {fit.temperature:.2f} takes it from {100 * fit.ece_before:.2f} to "
            f"{100 * fit.ece_after:.2f} % on images that it was not fitted to)"
        )
    return text
