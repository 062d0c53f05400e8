"""Counting what a network computes, by the rules that papers and tools use.

The network runs on meta tensors, so nothing is computed or copied; operators are seen as PyTorch
dispatches them, whatever module or function called them.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

__all__ = ["RULES", "Count", "count"]

# rule: which kinds of operators, times how much, and what to know about it
RULES: dict[str, tuple[tuple[str, ...], int, str]] = {
    "paper": (
        ("conv", "linear", "matmul"),
        1,
        "multiply-accumulates of convolutions, linear layers and matrix products; what the papers "
        "(and torchvision's and timm's tables) call FLOPs",
    ),
    "modules": (
        ("conv", "linear"),
        1,
        "multiply-accumulates of convolutions and linear layers only, as tools count that look at "
        "modules (thop, ptflops): the products inside attention are missed",
    ),
    "fvcore": (
        ("conv", "linear", "matmul", "norm", "pool"),
        1,
        "as fvcore: the paper's rule, and for each element 2 for batch norm, 5 for layer and "
        "group norm, 1 for adaptive average pooling",
    ),
    "operations": (
        ("conv", "linear", "matmul"),
        2,
        "additions and multiplications apart: twice the paper's, as torch.utils.flop_counter",
    ),
}

_KINDS = {
    **dict.fromkeys(("convolution", "_convolution", "cudnn_convolution"), "conv"),
    **dict.fromkeys(("mm", "addmm"), "linear"),
}
# operations an element of fvcore's rule, with and without weight and bias
_NORMS = {
    **dict.fromkeys(
        ("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"), (2, 1)
    ),
    **dict.fromkeys(("native_layer_norm", "native_group_norm"), (5, 4)),
}


class Count:
    """What one image costs.

    Attributes:
        by_kind: Multiply-accumulates (of norms and pooling: operations) by kind of operator:
            "conv", "linear", "matmul", "norm", "pool".
        activations: Elements that convolutions, linear layers and matrix products put out.
        nonzero: Multiply-accumulates of convolutions and linear layers with weights that are not
            zero, as papers on sparse networks count; dense code computes all the same.
    """

    def __init__(self) -> None:
        self.by_kind: Counter[str] = Counter()
        self.activations = 0
        self.nonzero = 0

    def total(self, rule: str = "paper") -> int:
        """The sum by a rule of `RULES`."""
        kinds, factor, _ = RULES[rule]
        return factor * sum(self.by_kind[kind] for kind in kinds)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, result: Count, densities: dict[int, float]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.result, self._densities = result, densities

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = func._overloadpacket
        name = packet.__name__
        if packet in flop_registry:
            first = out[0] if isinstance(out, tuple) else out
            kind = _KINDS.get(name, "matmul")
            macs = flop_registry[packet](*args, **kwargs, out_val=out) // 2
            self.result.by_kind[kind] += macs
            shares = [self._densities.get(_storage(t), 1.0) for t in args if _is_tensor(t)]
            self.result.nonzero += round(macs * min(shares, default=1.0))
            self.result.activations += first.numel()
        elif name in _NORMS:
            affine = args[1 if "batch" in name or "group" in name else 2] is not None
            self.result.by_kind["norm"] += _NORMS[name][0 if affine else 1] * args[0].numel()
        elif name.startswith(("_adaptive_avg_pool", "adaptive_avg_pool")):
            self.result.by_kind["pool"] += args[0].numel()
        return out


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _storage(tensor: Tensor) -> int:
    """The same number for a weight and for every view of it."""
    return int(tensor.untyped_storage()._cdata)


def _density(weight: Tensor) -> float:
    """Share of the values that are not zero; of a tensor without values all."""
    if weight.is_meta or weight.ndim < 2:
        return 1.0
    return weight.count_nonzero().item() / max(1, weight.numel())


def count(model: nn.Module, input_shape: tuple[int, int, int]) -> Count:
    """Count the forward pass of one image in evaluation mode.

    Args:
        model: The network, on any device; it is not changed.
        input_shape: ``(C, H, W)``.
    """
    tensors = dict((*model.named_parameters(), *model.named_buffers()))
    state = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    densities = {_storage(state[name]): _density(p.detach()) for name, p in tensors.items()}
    dtype = next(model.parameters()).dtype
    image = torch.empty(1, *input_shape, device="meta", dtype=dtype)
    was_training = model.training
    model.eval()
    result = Count()
    call: Callable[..., Tensor] = torch.func.functional_call
    try:
        with torch.no_grad(), _Counter(result, densities):
            call(model, state, (image,))
    finally:
        model.train(was_training)
    return result
