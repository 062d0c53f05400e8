"""Weights in the form in which the native code reads them: padded with zeros, in panels, aligned.

    [N / panel][K / group][panel][group]               a panel's columns for each group of inputs
    [N / 32][K / 32][2 halves][16 pairs][16 cols][2]   the same as pairs of tiles, for AMX
    [N / 32][K / 64][2 halves][16 fours][16 cols][4]   tiles of 8-bit integers

All weights of a network lie in one buffer: one argument of the operator instead of hundreds, and
one stretch of memory that can have large pages.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from convnext.ops.cpu.kernel_sets import KernelSet, Layout
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
    buffer = torch.empty(starts[-1], dtype=torch.uint8)
    places = zip(
        plan.slots(), weights, pairwise(starts), _places(plan, buffer, kernels), strict=True
    )
    for slot, weight, (start, end), place in places:
        assert weight.shape == slot.shape, (slot, weight.shape)
        _pack(slot, weight, kernels, place)
        buffer[start + place.nbytes : end] = 0  # up to the next cache line
    return buffer


def unpack(plan: Plan, buffer: Tensor, kernels: KernelSet) -> Iterator[Tensor]:
    """The weights that were packed, in fp32 (start values in int32) and the shapes of the slots.

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


def _pack(slot: Slot, weight: Tensor, kernels: KernelSet, place: Tensor) -> None:
    lacking = [want - have for have, want in zip(weight.shape, slot.padded(kernels), strict=True)]
    weight = weight.to(slot.dtype(kernels))
    if any(lacking):
        weight = F.pad(weight, [side for lack in reversed(lacking) for side in (0, lack)])
    if slot.kind != "matrix":
        place.view(weight.shape).copy_(weight)
        return
    weight = weight.flatten(1)  # N, parts * K
    rest = slot.size(kernels) // len(weight) - weight.shape[1]
    weight = F.pad(weight, (0, rest)) if rest else weight
    layout = slot.layout(kernels)
    words = _words(weight.contiguous(), layout)
    shape, order = _outputs_first(words.shape, layout), _order(layout)
    _words(place, layout).view([shape[dim] for dim in order]).copy_(
        words.view(shape).permute(order)
    )


def _unpack(slot: Slot, packed: Tensor, kernels: KernelSet) -> Tensor:
    padded = slot.padded(kernels)
    if slot.kind == "matrix":
        layout, dtype = slot.layout(kernels), packed.dtype
        words = _words(packed, layout)
        shape = _outputs_first((padded[0], words.numel() // padded[0]), layout)
        order = _order(layout)
        back = sorted(range(len(order)), key=lambda dim: order[dim])
        words = words.view([shape[dim] for dim in order]).permute(back).reshape(padded[0], -1)
        packed = words.contiguous().view(dtype)[:, : padded[1] * padded[2]]
    weight = packed.reshape(padded)[tuple(slice(length) for length in slot.shape)]
    return weight if slot.number == "int32" else weight.to(torch.float32)


def _words(values: Tensor, layout: Layout) -> Tensor:
    """Groups along the last dimension as one number each: the packed form does not part them."""
    size = layout.group * values.element_size()
    return values.view({1: torch.int8, 2: torch.int16, 4: torch.int32}[size])


def _outputs_first(shape: Sequence[int], layout: Layout) -> tuple[int, ...]:
    """(N, words of K) cut into what the packed form rearranges."""
    n, words = shape
    if layout.half:
        deep = layout.k_unit // layout.group
        halves = (layout.panel // layout.half, layout.half)
        return (n // layout.panel, *halves, words // deep, deep)
    return (n // layout.panel, layout.panel, words)


def _order(layout: Layout) -> tuple[int, ...]:
    """The dimensions of `_outputs_first` in the order of memory."""
    return (0, 3, 1, 4, 2) if layout.half else (0, 2, 1)
