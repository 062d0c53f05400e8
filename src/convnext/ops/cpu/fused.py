"""The operator `convnext::fused_convnext`: a whole network at once, opaque to compilers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from convnext.ops.cpu.features import runs
from convnext.ops.cpu.kernel_sets import KernelSet, kernel_set
from convnext.ops.cpu.library import PARTS, UnavailableError, library
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
        ValueError: There is no such network or output, or weights or images do not fit it.
    """
    kernels, plan = _read(network)
    _check_images(x, plan)
    if len(set(wanted)) < len(wanted):
        raise ValueError(f"wanted={list(wanted)} has an output twice")
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
    plan = _read(network)[1]
    return [_empty(x, plan, i) for i in wanted]


def profile(x: Tensor, weights: Tensor, network: Sequence[int], eps: float) -> list[list[float]]:
    """Seconds of each part (`library.PARTS`) in each stage, summed over the threads.

    Raises:
        ValueError: There is no such network, or weights or images do not fit it.
        UnavailableError: No native code runs here.
    """
    kernels, plan = _read(network)
    _check_images(x, plan)
    if not runs(kernels):
        raise UnavailableError(f"the kernels {kernels.name} are not native to this CPU")
    check(plan, weights, kernels)
    seconds = torch.zeros(len(plan.dims), len(PARTS), dtype=torch.float64)
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


def _read(network: Sequence[int]) -> tuple[KernelSet, Plan]:
    """Undo `network_numbers`."""
    if not network:
        raise ValueError("network=[] names no kernels, see network_numbers")
    return kernel_set(network[0]), Plan.from_ints(network[1:])


def _check_images(x: Tensor, plan: Plan) -> None:
    """Networks check that too, but not where they are compiled or exported."""
    smallest = plan.stem_stride * 2 ** (len(plan.dims) - 1)
    fits = x.ndim == 4 and x.shape[1] == plan.in_chans
    if not fits or min(plan.sizes(x.shape[2], x.shape[3])[-1]) < 1:
        raise ValueError(
            f"input of shape {tuple(x.shape)} does not fit: expected (N, {plan.in_chans}, H, W) "
            f"with H and W at least {smallest}"
        )


def _empty(x: Tensor, plan: Plan, index: int) -> Tensor:
    """The place of an output."""
    if not 0 <= index <= len(plan.dims):
        raise ValueError(f"output {index} is not in 0..{len(plan.dims)}")
    n = x.shape[0]
    if index == len(plan.dims):
        return x.new_empty((n, plan.dims[-1]), dtype=torch.float32)
    height, width = plan.sizes(x.shape[2], x.shape[3])[index]
    shape = (n, plan.dims[index], height, width)
    return torch.empty(
        shape, dtype=torch.float32, device=x.device, memory_format=torch.channels_last
    )
