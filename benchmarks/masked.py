"""A step of masked pre-training: visible cells only against whole maps, in time and memory."""

import argparse
import json
import multiprocessing
from collections.abc import Callable
from typing import Any

import torch

from convnext.evaluate.cost import peak_memory
from convnext.evaluate.timing import interleaved, ratio
from convnext.models.fcmae import FCMAE, FCMAEConfig

EXECUTIONS = ("sparse", "dense")


def step(execution: Any, encoder: str, dtype: str, batch: int) -> Callable[[], None]:
    """Forward, backward and AdamW step at 224 px, mask 0.6, as a function without arguments."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = FCMAE(FCMAEConfig(encoder=encoder, execution=execution)).to(device)
    model.to(memory_format=torch.channels_last)
    images = torch.randn(batch, 3, 224, 224, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def train() -> None:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == "bf16"):
            loss = model(images).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return train


def _peak(execution: str, encoder: str, dtype: str, batch: int, pipe: Any) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    before = 0 if device.type == "cuda" else peak_memory(device)
    run = step(execution, encoder, dtype, batch)
    for _ in range(3):
        run()
    pipe.send((peak_memory(device) - before) / 2**20)


def compare(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Images/s of both, their ratio, and the growth of memory of a process with either."""
    context = multiprocessing.get_context("spawn")
    rows = []
    for encoder in arguments.models:
        for dtype in arguments.dtypes:
            for batch in arguments.batches:
                row: dict[str, Any] = {"encoder": encoder, "dtype": dtype, "batch": batch}
                for execution in EXECUTIONS:
                    receive, send = context.Pipe(duplex=False)
                    work = (execution, encoder, dtype, batch, send)
                    process = context.Process(target=_peak, args=work)
                    process.start()
                    row[f"{execution}_mib"] = round(receive.recv())
                    process.join()
                row["memory_ratio"] = round(row["sparse_mib"] / row["dense_mib"], 3)
                sides = {e: step(e, encoder, dtype, batch) for e in EXECUTIONS}
                times = interleaved(sides, rounds=arguments.rounds, seconds=arguments.seconds)
                for execution, seconds in times.items():
                    row[f"{execution}_images_per_second"] = round(batch / min(seconds), 2)
                row["ratio"] = round(ratio(times, ["sparse"], ["dense"]), 3)
                rows.append(row)
                print(json.dumps(row), flush=True)
    return rows
