"""Depthwise convolution against `torch.nn.functional.conv2d`, in both memory formats."""

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convnext.evaluate.timing import interleaved, ratio
from convnext.ops.depthwise import depthwise_conv2d

# channels, side of the map, kernel: those of ConvNeXt, RepLKNet-31B and SLaK at 224 px
CASES = [
    (96, 56, (7, 7)),
    (192, 28, (7, 7)),
    (384, 14, (7, 7)),
    (768, 7, (7, 7)),
    (128, 56, (31, 31)),
    (256, 28, (31, 31)),
    (512, 14, (27, 27)),
    (1024, 7, (13, 13)),
    (128, 56, (51, 51)),
    (256, 28, (51, 51)),
    (124, 56, (51, 5)),
    (124, 56, (5, 51)),
    (249, 28, (49, 5)),
    (249, 28, (5, 49)),
    (499, 14, (47, 5)),
    (499, 14, (5, 47)),
    (998, 7, (13, 13)),
]
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
PHASES = ("forward", "forward_backward")


def library(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    return F.conv2d(x, weight, bias, padding=padding, groups=len(weight))


def side(function: Any, tensors: list[Tensor], phase: str) -> Callable[[], object]:
    """One call without gradients, or with all of them."""
    if phase == "forward":

        def forward() -> object:
            with torch.inference_mode():
                return function(*tensors)

        return forward
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    grad = torch.randn_like(tensors[0])

    def both() -> object:
        return torch.autograd.grad(function(*leaves), leaves, grad)

    return both


def compare(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Milliseconds of each side, and ratios: above 1 this package is faster.

    `contiguous` and `channels_last` compare both sides on input of that format,
    `over_contiguous` ours on channels-last input with the library on contiguous input.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = []
    for dtype in arguments.dtypes:
        for batch in arguments.batches:
            for channels, size, kernel in CASES:
                for phase in PHASES:
                    case = {"dtype": dtype, "batch": batch, "channels": channels, "map": size}
                    row = {**case, "kernel": list(kernel), "phase": phase}
                    row |= _times(row, device, arguments)
                    rows.append(row)
                    print(json.dumps(row), flush=True)
    return rows


def _times(row: dict[str, Any], device: str, arguments: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(0)
    to: Any = {"device": device, "dtype": {"fp32": torch.float32, "bf16": torch.bfloat16}[
        row["dtype"]]}  # fmt: skip
    channels, size = row["channels"], row["map"]
    weight = torch.randn(channels, 1, *row["kernel"], **to)
    bias = torch.randn(channels, **to)
    sides = {}
    for name, memory_format in FORMATS.items():
        x = torch.randn(row["batch"], channels, size, size, **to)
        tensors = [x.contiguous(memory_format=memory_format), weight, bias]
        sides[f"ours {name}"] = side(depthwise_conv2d, tensors, row["phase"])
        sides[f"library {name}"] = side(library, tensors, row["phase"])
    times = interleaved(sides, rounds=arguments.rounds, seconds=arguments.seconds)
    found: dict[str, Any] = {
        name.replace(" ", "_") + "_ms": round(1e3 * min(seconds), 3)
        for name, seconds in times.items()
    }
    for name in FORMATS:
        found[name] = round(ratio(times, [f"ours {name}"], [f"library {name}"]), 3)
    found["over_contiguous"] = round(
        ratio(times, ["ours channels_last"], ["library contiguous"]), 2
    )
    return found
