"""What the training engine adds to a bare loop over the same task, batches and optimiser."""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convnext.tasks.classify import ClassifyConfig, ClassifyTask
from convnext.train.config import OptimConfig, TrainConfig
from convnext.train.engine import Engine
from convnext.train.hooks import Hook, default_hooks

BATCH, STEPS, CLASSES = 32, 6, 100


class InMemory:
    """One batch, again and again: what is timed is the loop, not the loader."""

    num_samples = BATCH * STEPS
    batch_size = micro_batch = BATCH
    accum = 1
    steps_per_epoch = STEPS

    def __init__(self) -> None:
        self.batch: dict[str, Tensor] = {
            "image": torch.randn(BATCH, 3, 224, 224).contiguous(memory_format=torch.channels_last),
            "label": torch.randint(CLASSES, (BATCH,)),
            "index": torch.arange(BATCH),
        }

    def iterate(self, start_step: int) -> Iterator[dict[str, Tensor]]:
        while True:
            yield self.batch


class Clock(Hook):
    """When each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step(self, step: int) -> None:
        self.ends.append(time.perf_counter())


def task(model: str) -> ClassifyTask:
    torch.manual_seed(0)
    config = ClassifyConfig(model=model, mixup=0.0, cutmix=0.0)
    return ClassifyTask(config, num_classes=CLASSES)


def bare(model: str, batches: InMemory, optim: OptimConfig, dtype: str) -> list[float]:
    """The same steps in the shortest loop that trains."""
    network = task(model).train().to(memory_format=torch.channels_last)  # as the engine keeps it
    optimizer = torch.optim.AdamW(network.param_groups(optim), lr=optim.lr, fused=True)
    ends = []
    for _, batch in zip(range(STEPS), batches.iterate(0), strict=False):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bf16"):
            loss = network(batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ends.append(time.perf_counter())
    return ends


def engine(
    model: str, batches: InMemory, optim: OptimConfig, dtype: Any, folder: Path
) -> list[float]:
    """The same steps through the engine, with its hooks and logging."""
    clock = Clock()
    config = TrainConfig(precision=dtype, ema_decay=None, device="cpu")
    hooks = [*default_hooks(folder), clock]
    Engine(task(model), batches, optim, config, run_dir=folder, hooks=hooks).fit()
    return clock.ends


def overhead(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds a step of both, in turn, and the engine's surplus in percent."""
    batches, optim = InMemory(), OptimConfig(batch_size=BATCH, epochs=1, warmup_epochs=0.0)
    rows = []
    for model in arguments.models:
        for dtype in arguments.dtypes:
            surplus, steps = [], {"bare": [], "engine": []}
            for turn in range(arguments.rounds):
                medians = {}
                for side in ("bare", "engine") if turn % 2 else ("engine", "bare"):
                    with tempfile.TemporaryDirectory() as folder:
                        ends = (
                            bare(model, batches, optim, dtype)
                            if side == "bare"
                            else engine(model, batches, optim, dtype, Path(folder))
                        )
                    # the first step warms up
                    times = [b - a for a, b in pairwise(ends)]
                    medians[side] = statistics.median(times)
                    steps[side] += times
                surplus.append(medians["engine"] / medians["bare"] - 1)
            row = {
                **{"model": model, "dtype": dtype, "batch": BATCH},
                **{f"{s}_seconds_a_step": round(min(t), 4) for s, t in steps.items()},
                "overhead_percent": round(100 * statistics.median(surplus), 2),
                "overhead_percent_of_fastest": round(
                    100 * (min(steps["engine"]) / min(steps["bare"]) - 1), 2
                ),
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows
