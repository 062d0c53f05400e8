"""What may watch a run: progress, metrics file, TensorBoard, profiler.

Hooks are called on rank 0 only, in the order given, and never change the training.
"""

import contextlib
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from tqdm import tqdm

Record = dict[str, Any]


@dataclass(frozen=True)
class RunInfo:
    """What a hook knows of the run when it starts.

    Attributes:
        run_dir: the run's folder.
        start_step: steps already done by earlier processes.
        total_steps: steps of the whole run.
        steps_per_epoch: optimiser steps per epoch.
        batch_size: images per step = world_size * accum * micro_batch.
        micro_batch: images per process and forward pass.
        accum: micro-batches per step.
        world_size: number of processes.
        device: where they compute.
        precision: "fp32", "bf16" or "fp16".
    """

    run_dir: Path
    start_step: int
    total_steps: int
    steps_per_epoch: int
    batch_size: int
    micro_batch: int
    accum: int
    world_size: int
    device: str
    precision: str


class Hook:
    """Base of all hooks: every event does nothing.

    A record is a dict with "kind" ("train", "eval" or, when the masks of a sparse run moved,
    "masks"), "step", "epoch" (a fraction) and numbers.
    """

    def on_start(self, run: RunInfo) -> None:
        """Before the first step of this process."""

    def on_step(self, step: int) -> None:
        """After step `step` (from 1); nothing of its result is on the host yet."""

    def on_record(self, record: Record) -> None:
        """A log line of the training, a move of the masks, or the result of an evaluation."""

    def on_message(self, text: str) -> None:
        """Something that the user should read."""

    def on_end(self) -> None:
        """After the last step, also when the run stops early or fails."""


class ProgressBar(Hook):
    """A bar on a terminal; elsewhere one line at the start, at step 1 and then now and then.

    Args:
        stream: where to write; standard error by default.
        seconds_between_lines: least time between two plain lines.
    """

    def __init__(self, stream: TextIO | None = None, seconds_between_lines: float = 10.0) -> None:
        self._stream = stream or sys.stderr
        self._pause = seconds_between_lines
        self._bar: tqdm[Any] | None = None
        self._run: RunInfo | None = None
        self._start = self._last = 0.0

    def on_start(self, run: RunInfo) -> None:
        """Say what is about to happen, so that loading data does not look like hanging."""
        self._run, self._start = run, time.monotonic()
        self.on_message(
            f"training: steps {run.start_step + 1} to {run.total_steps}, "
            f"{run.steps_per_epoch} per epoch; effective batch {run.batch_size} = "
            f"{run.world_size} x {run.accum} x {run.micro_batch} "
            f"(processes x accumulated x images) on {run.device} in {run.precision}"
        )
        if self._stream.isatty():
            self._bar = tqdm(
                total=run.total_steps,
                initial=run.start_step,
                unit="step",
                file=self._stream,
                dynamic_ncols=True,
                smoothing=0.1,
            )

    def on_step(self, step: int) -> None:
        """Advance the bar."""
        if self._bar is not None:
            self._bar.update()

    def on_record(self, record: Record) -> None:
        """Show the newest numbers; evaluations always get a line."""
        if record["kind"] == "eval":
            self.on_message(_eval_line(record))
        elif record["kind"] != "train":
            pass
        elif self._bar is not None:
            self._bar.set_postfix_str(_numbers(record), refresh=False)
        elif self._run is not None:
            now = time.monotonic()
            done = record["step"] - self._run.start_step
            if (
                done <= 1
                or record["step"] == self._run.total_steps
                or now - self._last > self._pause
            ):
                self._last = now
                left = (self._run.total_steps - record["step"]) * (now - self._start) / max(done, 1)
                self.on_message(
                    f"step {record['step']}/{self._run.total_steps}  epoch {record['epoch']:.2f}  "
                    f"{_numbers(record)}  {tqdm.format_interval(left)} left"
                )

    def on_message(self, text: str) -> None:
        """Write a line without breaking the bar."""
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            print(text, file=self._stream, flush=True)

    def on_end(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class JsonlLog(Hook):
    """All records, one JSON object per line.

    On resume the lines after the resumed step, and a line cut short by a kill, are removed, so
    that the file reads as if the run had never been interrupted.

    Args:
        path: the file, usually `metrics.jsonl` in the run's folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = None

    def on_start(self, run: RunInfo) -> None:
        """Open the file, keeping the lines up to the resumed step."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        kept = [r for r in read_jsonl(self._path) if r.get("step", 0) <= run.start_step]
        temporary = self._path.with_name(self._path.name + ".tmp")
        temporary.write_text("".join(json.dumps(record) + "\n" for record in kept))
        temporary.replace(self._path)
        self._file = self._path.open("a")

    def on_record(self, record: Record) -> None:
        """Append the record."""
        if self._file is not None:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()

    def on_end(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def read_jsonl(path: Path) -> list[Record]:
    """The whole records of a metrics file; nothing of a file that is not there."""
    records = []
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_text(errors="replace").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                records.append(json.loads(line))
    return [record for record in records if isinstance(record, dict)]


class TensorBoard(Hook):
    """All numbers of all records as TensorBoard scalars.

    Args:
        folder: where the event files go.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def on_start(self, run: RunInfo) -> None:
        """Open a new event file that hides what earlier ones say after the resumed step."""
        from torch.utils.tensorboard import SummaryWriter  # heavy, and needed only here

        purge = run.start_step + 1 if run.start_step else None
        self._writer = SummaryWriter(str(self._folder), purge_step=purge)

    def on_record(self, record: Record) -> None:
        """Write every number under "train/", "masks/", "eval/model/" or "eval/ema/"."""
        prefix = record["kind"] + (f"/{record['weights']}" if "weights" in record else "")
        for name, value in record.items():
            if name != "step" and isinstance(value, int | float):
                self._writer.add_scalar(f"{prefix}/{name}", value, record["step"])

    def on_end(self) -> None:
        """Flush and close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class Profiler(Hook):
    """Trace a few steps with torch's profiler, to be opened in a browser (ui.perfetto.dev).

    Args:
        path: the trace file, for instance `trace.json`.
        warmup: steps of this process before the trace.
        steps: steps in the trace.
    """

    def __init__(self, path: Path, warmup: int = 5, steps: int = 3) -> None:
        self._path = path
        self._profile = torch.profiler.profile(
            schedule=torch.profiler.schedule(wait=0, warmup=warmup, active=steps, repeat=1),
            on_trace_ready=lambda profile: profile.export_chrome_trace(str(path)),
        )
        self._running = False

    def on_start(self, run: RunInfo) -> None:
        """Begin to warm up."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._profile.start()
        self._running = True

    def on_step(self, step: int) -> None:
        """Count the step."""
        self._profile.step()

    def on_end(self) -> None:
        """Stop, writing what there is."""
        if self._running:
            self._profile.stop()
            self._running = False


def default_hooks(run_dir: Path) -> list[Hook]:
    """Progress bar, `metrics.jsonl` and `tensorboard/`."""
    return [
        ProgressBar(),
        JsonlLog(run_dir / "metrics.jsonl"),
        TensorBoard(run_dir / "tensorboard"),
    ]


def _numbers(record: Record) -> str:
    return (
        f"loss {record['loss']:.4f}  lr {record['lr']:.2e}  {record['images_per_second']:.1f} img/s"
    )


def _eval_line(record: Record) -> str:
    left_out = ("kind", "step", "epoch", "weights")
    texts = {
        name: f"{value:.4g}"
        for name, value in record.items()
        if name not in left_out and isinstance(value, int | float)
    }
    if list(texts.values()).count(texts.get("score", "")) > 1:  # another number says the same
        del texts["score"]
    numbers = "  ".join(f"{name} {text}" for name, text in texts.items())
    return f"evaluation at step {record['step']} ({record['weights']} weights): {numbers}"
