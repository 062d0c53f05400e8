"""Losses of the steps since the last log line."""

import math
from typing import Any

import torch
from torch import Tensor

from convnext.train.parallel import World, local


class NonFiniteError(ValueError):
    """The loss or a weight became infinite or not a number."""


class LossLog:
    """Collects the loss parts of every step on the device; reading them is the only host sync.

    Args:
        world: means are taken over all its processes.
        accum: micro-batches per step; a step's loss is their mean.
    """

    def __init__(self, world: World, accum: int) -> None:
        self._world = world
        self._accum = accum
        self._rows: list[Tensor] = []  # one per micro-batch: (parts,)
        self.parts: list[str] = []

    def add(self, losses: dict[str, Tensor]) -> None:
        """Note the scalars of one micro-batch, "loss" among them."""
        if not self.parts:
            self.parts = [name for name, value in losses.items() if value.dim() == 0]
        self._rows.append(torch.stack([losses[name].detach().float() for name in self.parts]))

    def read(self, step: int) -> dict[str, float]:
        """Mean of every part over the steps noted, the last of which is step `step`.

        Nothing of no steps.

        Raises:
            NonFiniteError: naming the first step (from 1) with a part that is not finite.
        """
        values = self._table().tolist() if self._rows else []  # (steps, parts)
        first = step - len(values) + 1
        for number, row in enumerate(values, first):
            if not all(math.isfinite(value) for value in row):
                named = ", ".join(
                    f"{part} = {v:g}" for part, v in zip(self.parts, row, strict=True)
                )
                raise NonFiniteError(f"the loss is not finite at step {number}: {named}")
        means = [sum(column) / len(values) for column in zip(*values, strict=True)]
        return dict(zip(self.parts, means, strict=False))

    def clear(self) -> None:
        """Start a new log line."""
        self._rows = []

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to write the same next log line."""
        return {"parts": self.parts, "table": self._table().cpu() if self._rows else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the log line of an interrupted run."""
        self.parts = list(state["parts"])
        table = state["table"]
        rows = [] if table is None else list(table.to(self._world.device))
        self._rows = [row for row in rows for _ in range(self._accum)]

    def _table(self) -> Tensor:
        rows = torch.stack(self._rows)  # (steps * accum, parts)
        return self._world.mean(rows.view(-1, self._accum, rows.shape[1]).mean(1))


def check_finite_weights(module: torch.nn.Module, world: World, step: int) -> None:
    """Refuse weights that a step has spoilt though its loss was still finite.

    Raises:
        NonFiniteError: on all processes, naming the step.
    """
    norms = torch._foreach_norm([local(p.detach()) for p in module.parameters()])
    total = world.mean(torch.stack([norm.float() for norm in norms]).sum())
    if not math.isfinite(total.item()):
        raise NonFiniteError(f"the weights are not finite after step {step}")
