"""Variants of a network under one recipe: train, compare, draw.

Every run has a folder of its own, so that a study that was stopped goes on where it was, run by
run; the table and the figure are written anew after each.
"""

import csv
import io
import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch

from convnext.data.listing import split_of
from convnext.evaluate.cost import num_params
from convnext.evaluate.counting import count
from convnext.models.registry import build_model, unknown
from convnext.published.roadmap import Published
from convnext.recipes.recipe import Recipe, to_dict
from convnext.report.road import Bar, road_figure
from convnext.run.folder import RunFolder, command_line, say_line, versions, write_text
from convnext.run.training import train

__all__ = ["Variant", "ablate", "variants_from_json"]

STEM = "ablation"  # of the names of table and figure


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One network of a study.

    Attributes:
        name: Name of its folder.
        model: Name of the network.
        title: Words for the table and the figure.
        model_args: Fields of the network's configuration that differ from the named one.
        adopted: False for a side road: the next variant does not build on it.
        published: What a paper reached with it.
    """

    name: str
    model: str
    title: str = ""
    model_args: dict[str, Any] = field(default_factory=dict)
    adopted: bool = True
    published: Published | None = None


def variants_from_json(text: str, model: str) -> list[Variant]:
    """Variants from `{"NAME": {"FIELD": VALUE, ...}, ...}`, fields of a network's configuration.

    Args:
        text: The JSON, or the path of a file that holds it. A field "model" names another network.
        model: The network that is varied.

    Raises:
        ValueError: It is not such an object, or a name cannot be a folder's.
        OSError: The file cannot be read.
    """
    if not text.lstrip().startswith("{"):
        text = Path(text).read_text(encoding="utf-8")
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"the variants are no valid JSON: {error}") from None
    if not isinstance(values, dict) or not values:
        raise ValueError('the variants must be an object: {"k5": {"kernel_size": 5}}')
    found = []
    for name, args in values.items():
        if not isinstance(args, dict):
            raise ValueError(f"variant {name!r} must be an object of configuration fields")
        if not name or Path(name).name != name or name.startswith("."):
            raise ValueError(f"variant {name!r} cannot be a folder's name")
        args = dict(args)
        found.append(Variant(name=name, model=args.pop("model", model), model_args=args))
    return found


def ablate(
    variants: Sequence[Variant],
    recipe: Recipe,
    out: Path,
    *,
    title: str,
    seeds: int = 1,
    jobs: int = 0,
    say: Callable[[str], None] = say_line,
) -> list[dict[str, Any]]:
    """Train every variant with every seed and compare them.

    Writes `ablation.json`, `ablation.csv` and `ablation.svg` into `out`, after each run anew.

    Args:
        variants: The networks, in the order of the table.
        recipe: What all of them are trained with.
        out: Folder of the study; the runs go to `out/VARIANT/seed-N`.
        title: Heading of the figure.
        seeds: Runs of each variant, with seeds 0, 1, ...
        jobs: Runs at a time, each on a device of its own; 0 = one for each CUDA device, else one.
        say: Where messages go.

    Returns:
        The rows of the table.

    Raises:
        ValueError: A variant cannot be built, or the folder holds a study with other settings.
        OSError: Something cannot be read or written.
    """
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}; it must be at least 1")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("a study runs each network on one device; start it without torchrun")
    study = _Study(list(variants), recipe, out, title, seeds)
    study.check()
    todo = [run for run in study.runs() if run.scores() is None]
    say(
        f"{len(variants)} networks x {seeds} seeds: {len(todo)} of "
        f"{len(variants) * seeds} runs to do, in {out}"
    )
    study.write()
    parallel = min(jobs or max(1, torch.cuda.device_count()), max(1, len(todo)))
    for number, run in enumerate(_each_done(todo, parallel), 1):
        rows = study.write()
        row = next(r for r in rows if r["variant"] == run.variant.name)
        say(f"[{number}/{len(todo)}] {run.variant.name} seed {run.seed}: top-1 {run.top1():.2f} %")
        say(f"      {run.variant.name}: {row['params']:,} parameters, {row['gmacs']:.3f} GMACs")
    for suffix, what in (("csv", "table"), ("json", "table with settings"), ("svg", "figure")):
        say(f"{what}: {out / f'{STEM}.{suffix}'}")
    return study.rows()


@dataclass(frozen=True)
class _Run:
    """One variant with one seed."""

    variant: Variant
    seed: int
    recipe: Recipe
    folder: RunFolder

    def scores(self) -> dict[str, Any] | None:
        return self.folder.scores(self.recipe)

    def top1(self) -> float:
        """Top-1 in percent on the test images, else on the validation images."""
        scores = self.scores()
        assert scores is not None, "the run has ended"
        return float(scores["test" if "test" in scores else "val"]["top1"])


@dataclass(frozen=True)
class _Study:
    variants: list[Variant]
    recipe: Recipe
    out: Path
    title: str
    seeds: int

    def check(self) -> None:
        """Build every network on no device, so that mistakes come out before the first run."""
        names = [variant.name for variant in self.variants]
        if len(set(names)) != len(names):
            raise ValueError(f"two variants have the same name: {', '.join(names)}")
        for variant in self.variants:
            self.cost(variant)

    def runs(self) -> Iterator[_Run]:
        """All runs, seed by seed, so that a first whole table comes early."""
        for seed in range(self.seeds):
            for variant in self.variants:
                recipe = replace(
                    self.recipe,
                    name=variant.name,
                    task=replace(
                        self.recipe.classify, model=variant.model, model_args=variant.model_args
                    ),
                    train=replace(self.recipe.train, seed=seed),
                )
                folder = RunFolder(self.out / variant.name / f"seed-{seed}")
                yield _Run(variant, seed, recipe, folder)

    def cost(self, variant: Variant) -> tuple[int, int]:
        """Parameters and multiply-accumulates at the recipe's image size."""
        data, task = (
            self.recipe.images,
            replace(self.recipe.classify, model_args=variant.model_args),
        )
        args: dict[str, Any] = task.network_args()
        with torch.device("meta"):
            model = build_model(variant.model, in_chans=data.in_chans, **args)
        shape = (data.in_chans, data.image_size, data.image_size)
        return num_params(model), count(model, shape).total("paper")

    def rows(self) -> list[dict[str, Any]]:
        """The table; means over the runs that have ended."""
        reached: dict[str, list[float]] = {variant.name: [] for variant in self.variants}
        for run in self.runs():
            if run.scores() is not None:
                reached[run.variant.name].append(run.top1())
        rows, before, paper_before = [], None, None
        for variant in self.variants:
            params, macs = self.cost(variant)
            top1 = reached[variant.name]
            mean = statistics.mean(top1) if top1 else None
            paper = variant.published
            rows.append(
                {
                    "variant": variant.name,
                    "title": variant.title or variant.name,
                    "adopted": variant.adopted,
                    "params": params,
                    "gmacs": macs / 1e9,
                    "top1": _rounded(mean),
                    "std": _rounded(statistics.stdev(top1)) if len(top1) > 1 else None,
                    "change": _difference(mean, before),
                    "runs": [round(value, 2) for value in top1],
                    "paper_top1": paper.top1 if paper else None,
                    "paper_std": paper.std if paper else None,
                    "paper_change": _difference(paper.top1 if paper else None, paper_before),
                    "paper_gflops": paper.gflops if paper else None,
                }
            )
            if variant.adopted:
                before, paper_before = mean, paper.top1 if paper else None
        return rows

    def write(self) -> list[dict[str, Any]]:
        """Table and figure of what there is."""
        rows = self.rows()
        self.out.mkdir(parents=True, exist_ok=True)
        values = {
            "title": self.title,
            "rows": rows,
            "recipe": to_dict(self.recipe),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
            "versions": versions(),
            "command": command_line(),
        }
        write_text(self.out / f"{STEM}.json", json.dumps(values, indent=2) + "\n")
        table = io.StringIO()
        writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | {"runs": " ".join(map(str, row["runs"]))} for row in rows)
        write_text(self.out / f"{STEM}.csv", table.getvalue())
        bars = [
            Bar(
                title=row["title"],
                gmacs=row["gmacs"],
                top1=row["top1"],
                std=row["std"],
                adopted=row["adopted"],
                paper_top1=row["paper_top1"],
                paper_std=row["paper_std"],
            )
            for row in rows
        ]
        write_text(self.out / f"{STEM}.svg", road_figure(self.title, bars))
        return rows


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _difference(value: float | None, before: float | None) -> float | None:
    return None if value is None or before is None else round(value - before, 3)


def _each_done(runs: Sequence[_Run], parallel: int) -> Iterator[_Run]:
    """Do the runs, and give each when it has ended."""
    if parallel == 1:
        for run in runs:
            train(run.recipe, run.folder.path, say=_silent)
            yield run
        return
    free: SimpleQueue[int] = SimpleQueue()
    for place in range(parallel):
        free.put(place)
    with _children() as started, ThreadPoolExecutor(parallel) as pool:
        futures = [pool.submit(_in_child, run, free, parallel, started) for run in runs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in started:
                child.terminate()
            raise


@contextmanager
def _children() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that end with the block, also when this one is told to end; each saves its run."""
    started: list[subprocess.Popen[bytes]] = []

    def stop(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield started
    finally:
        signal.signal(signal.SIGTERM, before)
        for child in started:
            if child.poll() is None:
                child.terminate()
        for child in started:
            child.wait()


def _in_child(
    run: _Run, free: "SimpleQueue[int]", parallel: int, started: list[subprocess.Popen[bytes]]
) -> _Run:
    """One run in a process of its own, on the next free device or share of the cores."""
    place = free.get()
    run.folder.path.parent.mkdir(parents=True, exist_ok=True)
    recipe = run.folder.path.with_suffix(".json")
    write_text(recipe, run.recipe.to_json())
    environment = dict(os.environ)
    if devices := torch.cuda.device_count():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(i) for i in range(devices)]
        environment["CUDA_VISIBLE_DEVICES"] = names[place % devices]
    else:
        cores = len(os.sched_getaffinity(0))
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // parallel)))
    log = run.folder.path.with_suffix(".log")
    command = [sys.executable, "-m", "convnext.cli", "train", str(recipe)]
    try:
        with log.open("wb") as file:
            child = subprocess.Popen(
                [*command, "--out", str(run.folder.path)],
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
            )
            started.append(child)
            status = child.wait()
    finally:
        free.put(place)
    if status:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = lines[-1] if lines else "it said nothing"
        raise ValueError(f"the run {run.folder.path} ended with status {status}: {last}")
    return run


def _silent(_: str) -> None:
    """The study says what counts."""


def data_name(path: str) -> str:
    """The name of a data set from its path: that of the folder above `train` and the like."""
    place = Path(path)
    return place.parent.name if split_of(place.name) and place.parent.name else place.name


def select(steps: Sequence[str], known: Sequence[str]) -> list[str]:
    """The steps that a user named, in the road's order; all without a name.

    Raises:
        ValueError: There is no such step; the nearest is named.
    """
    for step in steps:
        if step not in known:
            raise unknown("step", step, known)
    return [step for step in known if step in steps or not steps]
