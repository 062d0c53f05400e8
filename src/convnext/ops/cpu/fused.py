"""The operator `convnext::fused_convnext`: a whole network at once, opaque to compilers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from convnext.ops.cpu.features import runs
from convnext.ops.cpu.kernel_sets import KernelSet, kernel_set
from convnext.ops.cpu.library import UnavailableError, library
from convnext.ops.cpu.packing import ALIGNMENT, check, offsets, unpack
from convnext.ops.cpu.plan import Plan
from convnext.ops.cpu.reference import reference

__all__ = ["fused_convnext", "network_numbers", "profile"]


def network_numbers(plan: Plan, kernels: KernelSet) -> list[int]:
    """The argument `network` of the operator."""
    return [kernels.number, *plan.to_ints()]


@torch.library.custom_op("convnext::fused_convnext", mutates_args=(), device_types="cpu")
def fused_convnext(
    x: Tensor, weights: Tensor, network: Sequence[int], wanted: Sequence[int], eps: float
) -> list[Tensor]:
    """Stage outputs and the pooled last map of a ConvNeXt.

    Args:
        x: (N, in_chans, H, W), any strides; anything but fp32 is converted.
        weights: The buffer that `packing.pack` makes of the network's weights.
        network: `network_numbers`.
        wanted: Which outputs, each at most once: i is the map of stage i, the number of stages
            the mean over positions of the last one.
        eps: Of every LayerNorm.

    Returns:
        In the order of `wanted`: maps (N, C_i, H_i, W_i), channels last in memory, or (N, C); fp32.

    Raises:
        ValueError: Weights or image do not fit the network.
    """
    kernels, plan = kernel_set(network[0]), Plan.from_ints(network[1:])
    if x.ndim != 4 or x.shape[1] != plan.in_chans:
        raise ValueError(f"input of shape {tuple(x.shape)}; expected (N, {plan.in_chans}, H, W)")
    out = [_empty(x, plan, i) for i in wanted]
    check(plan, weights, kernels)
    x = x.float()
    if not runs(kernels):
        found = reference(plan, x, unpack(plan, weights, kernels), eps)
        for place, i in zip(out, wanted, strict=True):
            place.copy_(found[i])
        return out
    places: list[Tensor | None] = [None] * (len(plan.dims) + 1)
    for i, place in zip(wanted, out, strict=True):
        places[i] = place
    _run(plan, kernels, x, weights, places, eps)
    return out


@fused_convnext.register_fake
def _(
    x: Tensor, weights: Tensor, network: Sequence[int], wanted: Sequence[int], eps: float
) -> list[Tensor]:
    return [_empty(x, Plan.from_ints(network[1:]), i) for i in wanted]


def profile(x: Tensor, weights: Tensor, network: Sequence[int], eps: float) -> list[list[float]]:
    """Seconds of each part (`library.PARTS`) in each stage, summed over the threads.

    Raises:
        UnavailableError: No native code runs here.
    """
    kernels, plan = kernel_set(network[0]), Plan.from_ints(network[1:])
    if not runs(kernels):
        raise UnavailableError(f"the kernels {kernels.name} are not native to this CPU")
    check(plan, weights, kernels)
    seconds = torch.zeros(len(plan.dims), 6, dtype=torch.float64)
    pooled = _empty(x, plan, len(plan.dims))
    places: list[Tensor | None] = [None] * len(plan.dims) + [pooled]
    _run(plan, kernels, x.float(), weights, places, eps, seconds)
    rows: list[list[float]] = seconds.tolist()
    return rows


def _run(
    plan: Plan,
    kernels: KernelSet,
    x: Tensor,
    weights: Tensor,
    places: list[Tensor | None],
    eps: float,
    seconds: Tensor | None = None,
) -> None:
    if weights.data_ptr() % ALIGNMENT or not weights.is_contiguous():
        weights = weights.clone(memory_format=torch.contiguous_format)  # was read from some file
    start = weights.data_ptr()
    addresses = [start + offset for offset in offsets(plan, kernels)[:-1]]
    library().run(plan, kernels, x, addresses, places, eps, seconds)


def _empty(x: Tensor, plan: Plan, index: int) -> Tensor:
    """The place of an output."""
    n = x.shape[0]
    if index == len(plan.dims):
        return x.new_empty((n, plan.dims[-1]), dtype=torch.float32)
    height, width = plan.sizes(x.shape[2], x.shape[3])[index]
    shape = (n, plan.dims[index], height, width)
    return torch.empty(
        shape, dtype=torch.float32, device=x.device, memory_format=torch.channels_last
    )
