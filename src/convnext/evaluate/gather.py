"""Collect rows from every process of a distributed run."""

import torch
import torch.distributed as dist
from torch import Tensor


def all_gather_rows(rows: Tensor) -> Tensor:
    """Concatenate the rows of all ranks, in rank order, on every rank.

    Ranks may hold different numbers of rows, none included. Without an initialised process group
    the rows come back unchanged. This is a collective call: every rank has to make it.

    Args:
        rows: ``(n_rank, ...)`` on the CPU; trailing shape and dtype alike on all ranks.

    Returns:
        ``(sum of n_rank, ...)`` on the CPU, the same on every rank.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows
    # NCCL moves CUDA tensors only; gloo, and mixed groups that contain it, take CPU tensors.
    device = torch.device("cpu" if "gloo" in dist.get_backend() else "cuda")
    world = dist.get_world_size()
    count = torch.tensor([rows.shape[0]], device=device)
    counts = [torch.zeros_like(count) for _ in range(world)]
    dist.all_gather(counts, count)
    sizes = [int(c) for c in counts]
    padded = torch.zeros((max(sizes), *rows.shape[1:]), dtype=rows.dtype, device=device)
    padded[: rows.shape[0]] = rows.to(device)
    parts = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(parts, padded)
    return torch.cat([part[:size].cpu() for part, size in zip(parts, sizes, strict=True)])
