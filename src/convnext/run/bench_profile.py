"""Where the fused engine spends its time: each part of each stage, with the arithmetic it does."""

from typing import Any

import torch

from convnext.deploy.fused import FusedConvNeXt
from convnext.models.convnext import NORM_EPS
from convnext.ops.cpu.fused import profile
from convnext.ops.cpu.library import PARTS, UnavailableError
from convnext.ops.cpu.plan import Plan
from convnext.run.bench_network import Dtype, build, fused

__all__ = ["profile_network", "profile_rows"]

Row = dict[str, Any]


def profile_network(name: str, size: int, batch_size: int, dtype: Dtype) -> list[Row]:
    """The rows of a network with new weights, on random images.

    Raises:
        ValueError: It has no fused form, or there is no native code for this precision here.
    """
    torch.manual_seed(0)
    network = fused(build(name, size), dtype)
    return profile_rows(network, torch.randn(batch_size, 3, size, size))


def profile_rows(network: FusedConvNeXt, images: torch.Tensor, calls: int = 5) -> list[Row]:
    """One row for each part of each stage, then one for each part of the network.

    Args:
        network: What is measured.
        images: One batch.
        calls: How often it runs, after once to warm up; the fastest call as a whole counts.

    Returns:
        Milliseconds of a batch, summed over threads; percent of all; GFLOPs of a batch (a
        multiplication and an addition are two); GFLOP/s of a thread. What does little arithmetic
        is bound by memory and has none of the latter.

    Raises:
        ValueError: There is no native code to be measured.
    """
    try:
        turns = [
            profile(images, network.packed, network.network_numbers, NORM_EPS)
            for _ in range(calls + 1)
        ][1:]
    except UnavailableError as why:
        raise ValueError(f"nothing to profile: {why}") from None
    seconds = min(turns, key=lambda turn: sum(map(sum, turn)))
    operations = _operations(network.plan, images)
    total = sum(map(sum, seconds))
    rows = [
        _row(f"{stage}", part, seconds[stage - 1][i], operations[stage - 1][i], total)
        for stage in range(1, len(seconds) + 1)
        for i, part in enumerate(PARTS)
    ]
    for i, part in enumerate(PARTS):
        spent, done = (sum(row[i] for row in table) for table in (seconds, operations))
        rows.append(_row("all", part, spent, done, total))
    return [row for row in rows if row["ms"]]


def _row(stage: str, part: str, seconds: float, operations: float, total: float) -> Row:
    return {
        "stage": stage,
        "part": part,
        "ms": round(1e3 * seconds, 3),
        "percent": round(100 * seconds / total, 1) if total else None,
        "gflops": round(operations / 1e9, 3) if operations else None,
        "gflops_per_second": round(operations / 1e9 / seconds, 1)
        if operations and seconds
        else None,
    }


def _operations(plan: Plan, images: torch.Tensor) -> list[list[float]]:
    """Floating-point operations of the parts of each stage, in the order of `PARTS`."""
    n, _, height, width = images.shape
    table = []
    for i, (h, w) in enumerate(plan.sizes(height, width)):
        dim, positions = plan.dims[i], n * h * w
        inputs = 4 * plan.dims[i - 1] if i else plan.in_chans * plan.stem_kernel**2
        depthwise = 2.0 * plan.depths[i] * positions * 49 * dim
        product = 2.0 * plan.depths[i] * positions * 4 * dim * dim
        table.append([2.0 * positions * inputs * dim, depthwise, 0.0, product, 0.0, product])
    return table
