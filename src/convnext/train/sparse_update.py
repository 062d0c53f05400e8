"""Moving a mask: pruning the smallest active weights and growing as many others."""

import math

import torch
from torch import Tensor

END_RATE = 0.005
"""Share of the active weights that an update at the very end of a run would prune."""


def prune_rate(first: float, step: int, total_steps: int) -> float:
    """Share of a tensor's active weights that the update after step t of T prunes.

    p_t = end + (first - end) / 2 * (1 + cos(pi * t / T)), end = min(0.005, first).

    Source: SLaK (Liu et al., ICLR 2023), after Dettmers and Zettlemoyer, 2019.
    """
    end = min(END_RATE, first)
    return end + 0.5 * (first - end) * (1 + math.cos(math.pi * step / total_steps))


def prune(weight: Tensor, mask: Tensor, rate: float) -> tuple[Tensor, int]:
    """Switch off the ceil(rate * nnz) active weights of smallest magnitude.

    Args:
        weight: any shape.
        mask: bool, of the same shape, with nnz entries on.
        rate: share to prune, 0..1.

    Returns:
        The smaller mask, and how many entries it lost; of equal weights the first go.
    """
    active = mask.flatten().nonzero().squeeze(1)  # (nnz,)
    count = math.ceil(rate * len(active))
    order = weight.flatten()[active].abs().argsort(stable=True)
    return _switch(mask, active[order[:count]], on=False), count


def grow_at_random(mask: Tensor, count: int, random: torch.Generator) -> Tensor:
    """Switch on `count` inactive entries, every choice equally likely.

    Args:
        mask: bool, what pruning left; the entries just pruned may come back.
        count: at most the number of inactive entries.
        random: a generator on the CPU.

    Source: SET (Mocanu et al., Nature Communications 2018); SLaK (Liu et al., ICLR 2023).
    """
    inactive = (~mask.flatten()).nonzero().squeeze(1)
    chosen = torch.randperm(len(inactive), generator=random)[:count]
    return _switch(mask, inactive[chosen.to(mask.device)], on=True)


def grow_by_gradient(mask: Tensor, count: int, gradient: Tensor) -> Tensor:
    """Switch on the `count` inactive entries with the largest gradient magnitude.

    Args:
        mask: bool, what pruning left; the entries just pruned may come back.
        count: at most the number of inactive entries.
        gradient: of the dense tensor; entries that are not finite (an fp16 step that was
            skipped) count as 0.

    Source: RigL (Evci et al., ICML 2020), section 3(4).
    """
    inactive = (~mask.flatten()).nonzero().squeeze(1)
    size = gradient.flatten()[inactive].abs().nan_to_num(nan=0.0, posinf=0.0)
    return _switch(mask, inactive[size.argsort(descending=True, stable=True)[:count]], on=True)


def _switch(mask: Tensor, places: Tensor, *, on: bool) -> Tensor:
    """A copy of a mask with the entries at flat `places` on or off."""
    result = mask.flatten().clone()
    result[places] = on
    return result.view(mask.shape)
