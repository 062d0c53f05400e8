"""UPerNet against transformers' and segmentation_models_pytorch's with the same backbone.

Each side lives in a process of its own, and in a round each times itself once while the others
wait. Each gets the layout of images and weights that is the faster one for it. Training is a
forward and backward pass with the loss and its auxiliary head; smp's network has none, so that
there a side of ours without one stands beside it. In inference no side runs an auxiliary head
(transformers' would, if it had one), and logits have the size of the image.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from convnext.evaluate.cost import num_params, peak_memory
from convnext.evaluate.timing import ratio
from convnext.models.registry import model_config
from convnext.tasks.segment import SegmentConfig, SegmentTask

NUM_CLASSES = 150
OURS, PLAIN = "convnext", "convnext, no auxiliary head"
OTHERS = ("transformers", "smp")
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
Side = tuple[str, str]  # name and layout


def network(side: str, name: str, train: bool) -> nn.Module:
    """A side's network with new weights; ours as the task with its losses."""
    if side not in OTHERS:
        plain = {"aux_dim": 0} if side == PLAIN else {}
        config = SegmentConfig(model=f"upernet_{name}", model_args=plain)
        return SegmentTask(config, num_classes=NUM_CLASSES)
    if side == "smp":
        import segmentation_models_pytorch as smp

        model: nn.Module = smp.UPerNet(
            encoder_name=f"tu-{name}",
            encoder_weights=None,
            decoder_channels=512,
            classes=NUM_CLASSES,
            upsampling=4,
        )
        return model
    from transformers import ConvNextConfig, UperNetConfig, UperNetForSemanticSegmentation

    body = model_config(name)
    backbone = ConvNextConfig(
        depths=list(body.depths),
        hidden_sizes=list(body.dims),
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    return UperNetForSemanticSegmentation(
        UperNetConfig(
            backbone_config=backbone,
            num_labels=NUM_CLASSES,
            hidden_size=512,
            use_auxiliary_head=train,
            auxiliary_in_channels=body.dims[2],
        )
    )


def step(
    chosen: Side, name: str, phase: str, batch: int, size: int
) -> tuple[nn.Module, Callable[[], object]]:
    """A network, and one forward pass, or one forward and backward pass, without arguments."""
    side, layout = chosen[0], LAYOUTS[chosen[1]]
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train, ours = phase == "training", side not in OTHERS
    model: Any = network(side, name, train)
    model.to(device, memory_format=layout).train(train)
    images = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=layout)
    labels = torch.randint(0, NUM_CLASSES, (batch, size, size), device=device)

    def loss() -> torch.Tensor:
        if ours:
            return model({"image": images, "mask": labels})["loss"]
        if side == "smp":
            return cross_entropy(model(images), labels)
        return model(pixel_values=images, labels=labels).loss

    def learn() -> None:
        loss().backward()
        for p in model.parameters():
            p.grad = None

    def infer() -> object:
        with torch.inference_mode():
            return model({"image": images})["logits"] if ours else model(images)

    return model, learn if train else infer


def work(side: Side, name: str, phase: str, batch: int, size: int, pipe: Connection) -> None:
    """Body of a side's process: builds it, then times as many calls as it is asked for.

    Sends its parameters, peak memory and the seconds of a call; then for each number of calls that
    comes, the seconds of one; ends at 0.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.device("meta"):
        network(side[0], name, train=False)  # so that what is imported does not count
    before = peak_memory(device)
    model, run = step(side, name, phase, batch, size)
    for _ in range(2):
        start = time.perf_counter()
        run()
        wait()
    seconds = time.perf_counter() - start
    pipe.send((num_params(model), peak_memory(device) - before, seconds))
    while calls := pipe.recv():
        start = time.perf_counter()
        for _ in range(calls):
            run()
        wait()
        pipe.send((time.perf_counter() - start) / calls)


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure(
    sides: list[Side], rounds: int, seconds: float, *cell: Any
) -> tuple[dict[Side, list[float]], dict[Side, tuple[int, int]]]:
    """Seconds of a call round by round, and parameters and peak bytes, of each side."""
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        pipes: dict[Side, Any] = {}
        about: dict[Side, tuple[int, int]] = {}
        calls: dict[Side, int] = {}
        for side in sides:
            own, other = context.Pipe()
            process = context.Process(target=work, args=(side, *cell, other))
            process.start()
            other.close()
            stack.callback(process.join)
            stack.callback(own.send, 0)
            pipes[side] = own
            params, peak, needed = own.recv()
            about[side] = (params, peak)
            calls[side] = max(1, round(seconds / needed))
        times: dict[Side, list[float]] = {side: [] for side in sides}
        for turn in range(rounds):
            first = turn % len(sides)
            for side in sides[first:] + sides[:first]:
                pipes[side].send(calls[side])
                times[side].append(pipes[side].recv())
    return times, about


def with_layout(name: str, rounds: int, seconds: float, *cell: Any) -> Side:
    """A side with the layout that is the faster one for it."""
    both = [(name, layout) for layout in LAYOUTS]
    times, _ = measure(both, rounds, seconds, *cell)
    return min(both, key=lambda side: statistics.median(times[side]))


def compare(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Images/s, their range over the rounds, and peak memory of all sides."""
    rows: list[dict[str, Any]] = []
    for name in arguments.models:
        for phase in arguments.phases:
            for batch in arguments.batches:
                for size in arguments.sizes:
                    rows.append(row(arguments, name, phase, batch, size))
                    print(json.dumps(rows[-1]), flush=True)
    return rows


def row(
    arguments: argparse.Namespace, name: str, phase: str, batch: int, size: int
) -> dict[str, Any]:
    """One comparison; ratios above 1 say that this package is faster, or takes more memory."""
    cell = (name, phase, batch, size)
    ours, *others = (
        with_layout(side, min(arguments.rounds, 3), arguments.seconds, *cell)
        for side in (OURS, *OTHERS)
    )
    own = [ours] + [(PLAIN, ours[1])] * (phase == "training")
    times, about = measure([*own, *others], arguments.rounds, arguments.seconds, *cell)
    found: dict[str, Any] = {"model": f"upernet_{name}", "phase": phase}
    found |= {"batch": batch, "size": size, "sides": {}, "ratio": {}, "memory_ratio": {}}
    for side, taken in times.items():
        speeds = sorted(batch / seconds for seconds in taken)
        params, peak = about[side]
        found["sides"][side[0]] = {
            "layout": side[1],
            "params": params,
            "images_per_second": round(statistics.median(speeds), 3),
            "range": [round(speeds[0], 3), round(speeds[-1], 3)],
            "mib": round(peak / 2**20),
        }
    for other in others:
        alike = own[-1] if other[0] == "smp" else own[0]
        pair = {"ours": times[alike], "theirs": times[other]}
        found["ratio"][other[0]] = round(ratio(pair, ("ours",), ("theirs",)), 3)
        found["memory_ratio"][other[0]] = round(about[alike][1] / about[other][1], 3)
    return found
