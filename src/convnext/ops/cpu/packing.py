"""Weights in the form in which the native code reads them: padded with zeros, in panels, aligned.

    [N / panel][K / group][panel][group]               a panel's columns for each group of inputs
    [N / 32][K / 32][2 halves][16 pairs][16 cols][2]   the same as pairs of tiles, for AMX

All weights of a network lie in one buffer: one argument of the operator instead of hundreds, and
one stretch of memory that can have large pages.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from convnext.ops.cpu.kernel_sets import KernelSet
from convnext.ops.cpu.plan import Plan, Slot

__all__ = ["ALIGNMENT", "check", "offsets", "pack", "unpack"]

ALIGNMENT = 64  # bytes of a cache line, and of the widest vector


@lru_cache(maxsize=64)
def offsets(plan: Plan, kernels: KernelSet) -> tuple[int, ...]:
    """Where each weight starts in the buffer, in bytes, and last the size of the buffer."""
    starts = [0]
    for slot in plan.slots():
        end = starts[-1] + slot.size(kernels) * slot.dtype(kernels).itemsize
        starts.append(-(-end // ALIGNMENT) * ALIGNMENT)
    return tuple(starts)


def pack(plan: Plan, weights: Iterable[Tensor], kernels: KernelSet) -> Tensor:
    """The buffer of a network's weights.

    Args:
        plan: Whose slots the weights fill.
        weights: Of the shapes of the slots, any precision; taken one at a time, so that only the
            buffer grows.
        kernels: Who will read them.

    Returns:
        Bytes: vectors and taps in fp32, matrices in the precision of the kernels.
    """
    starts = offsets(plan, kernels)
    buffer = torch.zeros(starts[-1], dtype=torch.uint8)
    for slot, weight, place in zip(
        plan.slots(), weights, _places(plan, buffer, kernels), strict=True
    ):
        assert weight.shape == slot.shape, (slot, weight.shape)
        place.copy_(_pack(slot, weight, kernels))
    return buffer


def unpack(plan: Plan, buffer: Tensor, kernels: KernelSet) -> Iterator[Tensor]:
    """The weights that were packed, in fp32 and the shapes of the slots.

    Packing them for other kernels takes something away only if their precision is lower.
    """
    for slot, place in zip(plan.slots(), _places(plan, buffer, kernels), strict=True):
        yield _unpack(slot, place, kernels)


def check(plan: Plan, buffer: Tensor, kernels: KernelSet) -> None:
    """Refuse what native code must not read.

    Raises:
        ValueError: It is not a buffer for this network and these kernels.
    """
    size, device = offsets(plan, kernels)[-1], buffer.device
    if buffer.shape != (size,) or buffer.dtype != torch.uint8 or device.type != "cpu":
        raise ValueError(
            f"packed weights {tuple(buffer.shape)}, {buffer.dtype}, on {device} do not fit: this "
            f"network has {size} bytes for the kernels {kernels.name}, on the CPU"
        )


def _places(plan: Plan, buffer: Tensor, kernels: KernelSet) -> Iterator[Tensor]:
    """Each weight's part of the buffer, as one dimension of its own precision."""
    for slot, start in zip(plan.slots(), offsets(plan, kernels)[:-1], strict=True):
        dtype = slot.dtype(kernels)
        yield buffer[start : start + slot.size(kernels) * dtype.itemsize].view(dtype)


def _pack(slot: Slot, weight: Tensor, kernels: KernelSet) -> Tensor:
    lacking = [want - have for have, want in zip(weight.shape, slot.padded(kernels), strict=True)]
    weight = weight.to(slot.dtype(kernels))
    if any(lacking):
        weight = F.pad(weight, [side for lack in reversed(lacking) for side in (0, lack)])
    if slot.kind != "matrix":
        return weight.flatten()
    weight = weight.flatten(1)  # N, parts * K
    rest = slot.size(kernels) // len(weight) - weight.shape[1]
    weight = F.pad(weight, (0, rest)) if rest else weight
    return weight.view(_outputs_first(weight.shape, kernels)).permute(_order(kernels)).flatten()


def _unpack(slot: Slot, packed: Tensor, kernels: KernelSet) -> Tensor:
    padded = slot.padded(kernels)
    if slot.kind == "matrix":
        outputs = padded[0]
        shape = _outputs_first((outputs, packed.numel() // outputs), kernels)
        order = _order(kernels)
        back = sorted(range(len(order)), key=lambda dim: order[dim])
        packed = packed.view([shape[dim] for dim in order]).permute(back)
        packed = packed.reshape(outputs, -1)[:, : padded[1] * padded[2]]
    weight = packed.reshape(padded)
    return weight[tuple(slice(length) for length in slot.shape)].to(torch.float32)


def _outputs_first(shape: Sequence[int], kernels: KernelSet) -> tuple[int, ...]:
    """(N, K) cut into what the packed form rearranges."""
    n, k = shape
    if kernels.half:
        pairs = kernels.k_unit // kernels.group
        halves = (kernels.panel // kernels.half, kernels.half)
        return (n // kernels.panel, *halves, k // kernels.k_unit, pairs, kernels.group)
    return (n // kernels.panel, kernels.panel, k // kernels.group, kernels.group)


def _order(kernels: KernelSet) -> tuple[int, ...]:
    """The dimensions of `_outputs_first` in the order of memory."""
    return (0, 3, 1, 4, 2, 5) if kernels.half else (0, 2, 1, 3)
