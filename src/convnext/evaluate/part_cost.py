"""What the systems built on a backbone cost, counted as in the tables of the ConvNeXt papers.

The papers' FLOPs are those of the counter that their code base had: multiply-accumulates of
convolutions, transposed convolutions and linear layers, one operation for each bias of a
convolution, each element of a ReLU that is a layer, and each input element of average pooling.
Norms, GELU, layer scale, ReLUs called as functions, resizing and the reading of regions do not
count.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from convnext.evaluate.cost import num_params
from convnext.ops.dispatch import use

__all__ = ["PartCost", "count_parts"]

Operations = Callable[[Any, Tensor, Tensor], int]
Run = Callable[[Any, Tensor], object]


@dataclass(frozen=True, kw_only=True)
class PartCost:
    """Cost of a detector or segmentation network for one image.

    Attributes:
        params: number of trainable parameters, those of auxiliary heads included.
        flops: operations, see the module.
        parts: operations by the name of the part.
        size: height and width of the image.
    """

    params: int
    flops: int
    parts: dict[str, int] = field(default_factory=dict)
    size: tuple[int, int]


def count_parts(
    model: nn.Module, parts: Sequence[str], run: Run, size: tuple[int, int]
) -> PartCost:
    """Count one image in evaluation mode; nothing is computed.

    Args:
        model: on any device; it is not changed.
        parts: what its parts' names start with; what belongs to none of them does not count.
        run: called once with the model and a tensor of its kind, both on the meta device.
        size: height and width of the image that `run` makes, to be written down.

    Source: rule of mmcv's counter.
    """
    whole = _Whole(model, run)
    tensors = dict((*whole.named_parameters(), *whole.named_buffers()))
    state = {name: torch.empty_like(t, device="meta") for name, t in tensors.items()}
    found: Counter[str] = Counter()
    handles = [
        module.register_forward_hook(_hook(found, part, operations))
        for name, module in model.named_modules()
        for part in parts
        if name.startswith(part) and (operations := _operations(module))
    ]
    modes = {module: module.training for module in model.modules()}
    model.eval()
    call: Callable[..., None] = torch.func.functional_call
    try:
        with torch.no_grad(), use("reference"):
            call(whole, state, ())
    finally:
        for module, mode in modes.items():
            module.training = mode
        for handle in handles:
            handle.remove()
    counted = {part: found[part] for part in parts if found[part]}
    flops = sum(counted.values())
    return PartCost(params=num_params(model), flops=flops, parts=counted, size=size)


class _Whole(nn.Module):
    """All parts of a model that count, run once on meta tensors."""

    def __init__(self, model: nn.Module, run: Run) -> None:
        super().__init__()
        self.model, self.run = model, run

    def forward(self) -> None:
        self.run(self.model, next(self.model.parameters()))


def _operations(module: nn.Module) -> Operations | None:
    """How a module counts; pooling written as a product is known by name, as networks are not
    seen from here.
    """
    if type(module).__name__ == "AveragePool":
        return _inputs
    return next((count for kind, count in _RULE.items() if isinstance(module, kind)), None)


def _hook(found: Counter[str], part: str, operations: Operations) -> Callable[..., None]:
    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found[part] += operations(module, inputs[0], output)

    return add


def _convolution(module: nn.Conv2d, x: Tensor, y: Tensor) -> int:
    per_element = module.weight[0].numel()
    return y.numel() * (per_element + (module.bias is not None))


def _transposed(module: nn.ConvTranspose2d, x: Tensor, y: Tensor) -> int:
    per_element = module.weight[0].numel()
    return x.numel() * per_element + y.numel() * (module.bias is not None)


def _linear(module: nn.Linear, x: Tensor, y: Tensor) -> int:
    return y.numel() * module.in_features


def _inputs(module: nn.Module, x: Tensor, y: Tensor) -> int:
    return x.numel()


_RULE: dict[type[nn.Module], Operations] = {
    nn.Conv2d: _convolution,
    nn.ConvTranspose2d: _transposed,
    nn.Linear: _linear,
    nn.ReLU: lambda module, x, y: y.numel(),
    nn.AdaptiveAvgPool2d: _inputs,
}
