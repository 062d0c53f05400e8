"""Exponential moving average of the weights."""

import copy

import torch
from torch import Tensor, nn

from convnext.train.parallel import local


class Ema:
    """A copy of a module whose state follows the original's, smoothed.

    After every optimiser step t = 0, 1, ...: ema = d * ema + (1 - d) * state, over the full state
    dict; with warm-up d = min(decay, (1 + t) / (10 + t)), so that short runs forget their start.
    Integer buffers are copied.

    Args:
        module: the module to follow; `.module` starts as its deep copy, in evaluation mode.
        decay: d, from 0 to below 1.
        warmup: grow d from 0.1 as above.

    Source: ConvNeXt, Table 5 (decay 0.9999, no warm-up).
    """

    def __init__(self, module: nn.Module, decay: float, warmup: bool = False) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.decay = decay
        self.warmup = warmup
        self._pairs: tuple[list[Tensor], ...] | None = None

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Follow `module` after optimiser step `step` (counted from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        if self._pairs is None:  # walking the state dict costs more than the average itself
            self._pairs = _pairs(self.module, module)
        averages, values, copies, originals = self._pairs
        torch._foreach_lerp_(averages, values, 1 - decay)
        if copies:
            torch._foreach_copy_(copies, originals)


def _pairs(average: nn.Module, module: nn.Module) -> tuple[list[Tensor], ...]:
    """The tensors to average, those to follow, then the same of integer buffers, to copy."""
    pairs = [
        (local(mine), local(theirs))
        for mine, theirs in zip(
            average.state_dict(keep_vars=True).values(),
            module.state_dict(keep_vars=True).values(),
            strict=True,
        )
    ]
    smooth = [pair for pair in pairs if pair[0].is_floating_point()]
    exact = [pair for pair in pairs if not pair[0].is_floating_point()]
    return (
        [mine for mine, _ in smooth],
        [theirs for _, theirs in smooth],
        [mine for mine, _ in exact],
        [theirs for _, theirs in exact],
    )
