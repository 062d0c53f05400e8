"""Speed and memory of a network against timm's network of the same name.

Both are timed in both memory formats and the faster one of each counts: a user can choose it.
"""

import argparse
import json
import multiprocessing
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import timm
import torch
from torch import Tensor, nn

from convnext import create_model
from convnext.evaluate.cost import peak_memory
from convnext.evaluate.timing import interleaved, ratio

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
OURS, THEIRS = ("convnext", "convnext_channels_last"), ("timm", "timm_channels_last")


def build(side: str, name: str) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = create_model(name) if side in OURS else timm.create_model(name)
    last = side.endswith("channels_last")
    return model.to(memory_format=torch.channels_last) if last else model


def step(side: str, name: str, phase: str, dtype: str, batch: int, mode: str) -> Callable[[], None]:
    """One forward pass, or one forward and backward pass, as a function without arguments."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    training = phase == "training"
    model = build(side, name).to(device).train(training)
    images = torch.randn(batch, 3, 224, 224, device=device)
    if side.endswith("channels_last"):
        images = images.contiguous(memory_format=torch.channels_last)
    if not training:  # training keeps its weights in fp32, under autocast
        model, images = model.to(DTYPES[dtype]), images.to(DTYPES[dtype])
    run: Callable[[Tensor], Tensor] = torch.compile(model) if mode == "compiled" else model
    target = torch.randint(1000, (batch,), device=device)

    def train() -> None:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == "bf16"):
            loss = nn.functional.cross_entropy(run(images).float(), target)
        loss.backward()
        for p in model.parameters():
            p.grad = None

    def infer() -> None:
        with torch.inference_mode():
            run(images)

    return train if training else infer


def cells(arguments: argparse.Namespace) -> Iterator[tuple[str, str, str, int, str]]:
    yield from product(
        arguments.models, arguments.phases, arguments.dtypes, arguments.batches, arguments.modes
    )


def speed(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Images/s of both, and the ratio, for every cell."""
    rows = []
    for name, phase, dtype, batch, mode in cells(arguments):
        torch._dynamo.reset()
        sides = {side: step(side, name, phase, dtype, batch, mode) for side in OURS + THEIRS}
        times = interleaved(sides, rounds=arguments.rounds, seconds=arguments.seconds)
        row = {
            **{"model": name, "phase": phase, "dtype": dtype, "batch": batch, "mode": mode},
            **{f"{side}_images_per_second": round(batch / min(t), 2) for side, t in times.items()},
            "ratio": round(ratio(times, OURS, THEIRS), 3),
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def _peak(side: str, name: str, phase: str, dtype: str, batch: int, pipe: Any) -> None:
    run = step(side, name, phase, dtype, batch, "eager")
    for _ in range(3):
        run()
    pipe.send(peak_memory(torch.device("cuda" if torch.cuda.is_available() else "cpu")) / 2**20)


def memory(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Peak memory in MiB, each side in a process of its own (resident set on a CPU)."""
    rows = []
    context = multiprocessing.get_context("spawn")
    for name, phase, dtype, batch, mode in cells(arguments):
        if mode != "eager":
            continue
        row: dict[str, Any] = {"model": name, "phase": phase, "dtype": dtype, "batch": batch}
        for side in OURS + THEIRS:
            receive, send = context.Pipe(duplex=False)
            process = context.Process(target=_peak, args=(side, name, phase, dtype, batch, send))
            process.start()
            row[f"{side}_mib"] = round(receive.recv())
            process.join()
        ours, theirs = (min(row[f"{s}_mib"] for s in sides) for sides in (OURS, THEIRS))
        row["ratio"] = round(theirs / ours, 3)
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows
