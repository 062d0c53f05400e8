"""Everything that a step changes: what a checkpoint holds."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from convnext.train.ema import Ema
from convnext.train.losses import LossLog
from convnext.train.optimizer import load_optimizer_state, optimizer_state
from convnext.train.parallel import copy_into, full_tensor
from convnext.train.sparsity import Sparsity


@dataclass(frozen=True)
class Best:
    """The best evaluation so far.

    Attributes:
        step: the step after which it was made.
        score: its score, higher is better.
        weights: which weights reached it, "model" or "ema".
        metrics: all its numbers.
    """

    step: int
    score: float
    weights: str
    metrics: dict[str, float]


@dataclass
class TrainState:
    """A run between two steps.

    Attributes:
        task: network and loss, unwrapped.
        optimizer: over the task's parameters.
        losses: those since the last log line.
        ema: the averaged copy, if any.
        scaler: the fp16 loss scaler, if any.
        sparsity: the masks of a sparse run.
        step: steps done.
        evaluated: the step after which the last evaluation was made.
        seconds: time that the steps took, over all processes that ran one after another.
        best: the best evaluation so far.
    """

    task: nn.Module
    optimizer: torch.optim.Optimizer
    losses: LossLog
    ema: Ema | None = None
    scaler: torch.amp.GradScaler | None = None
    sparsity: Sparsity | None = None
    step: int = 0
    evaluated: int = 0
    seconds: float = 0.0
    best: Best | None = None

    def state_dict(self) -> dict[str, Any]:
        """Tensors whole and on the CPU, the same for any kind of parallelism.

        Only a sparse run has "masks".
        """
        masks = {"masks": self.sparsity.state_dict()} if self.sparsity else {}
        return masks | {
            "step": self.step,
            "evaluated": self.evaluated,
            "seconds": self.seconds,
            "best": asdict(self.best) if self.best else None,
            "losses": self.losses.state_dict(),
            "task": weights(self.task),
            "ema": weights(self.ema.module) if self.ema else None,
            "optimizer": optimizer_state(self.optimizer, self.task),
            "scaler": self.scaler.state_dict() if self.scaler else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from another process's `state_dict`.

        Raises:
            ValueError: the state is of another network, or lacks what this run needs.
        """
        load_weights(self.task, state["task"])
        if self.ema:
            if state["ema"] is None:
                raise ValueError("the checkpoint has no averaged weights: leave out ema_decay")
            load_weights(self.ema.module, state["ema"])
        if self.sparsity:
            self.sparsity.load_state_dict(state.get("masks"))
        load_optimizer_state(self.optimizer, self.task, state["optimizer"])
        if self.scaler and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.losses.load_state_dict(state["losses"])
        self.step, self.evaluated = state["step"], state["evaluated"]
        self.seconds = state["seconds"]
        self.best = Best(**state["best"]) if state["best"] else None


def weights(module: nn.Module) -> dict[str, Tensor]:
    """A module's state dict, whole and on the CPU; of a sharded one all processes must ask."""
    return {name: full_tensor(tensor) for name, tensor in module.state_dict().items()}


def load_weights(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Put whole CPU tensors into a module, sharded or not.

    Raises:
        ValueError: naming the keys or shapes that differ.
    """
    own = module.state_dict()
    wrong = sorted(own.keys() ^ state.keys())
    wrong += [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    if wrong:
        raise ValueError(f"the checkpoint is of another network: {', '.join(wrong[:5])} differ")
    for key, tensor in own.items():
        copy_into(tensor, state[key])
