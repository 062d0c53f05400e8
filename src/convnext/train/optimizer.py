"""The optimiser: building it, setting a step's values, its state by parameter name."""

from typing import Any

import torch
from torch import Tensor, nn

from convnext.train.config import OptimConfig
from convnext.train.parallel import full_tensor, like


def build_optimizer(groups: list[dict[str, Any]], optim: OptimConfig) -> torch.optim.Optimizer:
    """AdamW or SGD over parameter groups, with fused kernels."""
    if optim.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum, fused=True)
    return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)


def set_step_values(optimizer: torch.optim.Optimizer, lr: float, weight_decay: float) -> None:
    """Give every group its learning rate, and its weight decay if it decays at all."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
        if group["weight_decay"]:
            group["weight_decay"] = weight_decay


def optimizer_state(
    optimizer: torch.optim.Optimizer, module: nn.Module
) -> dict[str, dict[str, Tensor]]:
    """The optimiser's tensors by parameter name, whole and on the CPU.

    By name and not by position, so that a run continues with any kind of parallelism. On a
    sharded module all processes must call it.
    """
    return {
        name: {
            key: full_tensor(value) if isinstance(value, Tensor) else torch.tensor(value)
            for key, value in optimizer.state[parameter].items()
            if value is not None
        }
        for name, parameter in module.named_parameters()
        if parameter in optimizer.state
    }


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, module: nn.Module, state: dict[str, dict[str, Tensor]]
) -> None:
    """Put `optimizer_state`'s result back, each tensor sharded like its parameter.

    Raises:
        ValueError: the state names a parameter that the module does not have.
    """
    parameters = dict(module.named_parameters())
    for name, tensors in state.items():
        if name not in parameters:
            raise ValueError(f"the optimiser state is of another network: it has {name}")
        parameter = parameters[name]
        optimizer.state[parameter] = {
            key: like(parameter, value) if value.shape == parameter.shape else value.clone()
            for key, value in tensors.items()
        }
