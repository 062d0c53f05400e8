"""The packed form of weights, element by element, and what it computes."""

from itertools import product

import pytest
import torch

from convnext.ops.cpu.fused import fused_convnext, network_numbers
from convnext.ops.cpu.kernel_sets import KERNEL_SETS, PLAIN, kernel_set
from convnext.ops.cpu.packing import ALIGNMENT, check, offsets, pack, unpack
from convnext.ops.cpu.plan import Plan, Slot

PLAN = Plan(
    in_chans=5,
    stem_kernel=4,
    stem_stride=2,
    stem_padding=1,
    stem_norm=True,
    grn=True,
    depths=(1, 2),
    dims=(20, 52),
)
SETS = [pytest.param(kernels, id=kernels.name) for kernels in KERNEL_SETS]


def weights_of(plan):
    return [torch.randn(slot.shape, dtype=torch.float64) * 0.1 for slot in plan.slots()]


def part(plan, buffer, kernels, i):
    slot, start = list(plan.slots())[i], offsets(plan, kernels)[i]
    dtype = slot.dtype(kernels)
    return slot, buffer[start : start + slot.size(kernels) * dtype.itemsize].view(dtype)


def up(n, unit):
    return (n + unit - 1) // unit * unit


def place(kernels, n, k, padded_k):
    """Where element (n, k) of a matrix lies, from the definition of the form."""
    panel, column = divmod(n, kernels.panel)
    group, lane = divmod(k, kernels.group)
    if kernels.name != "amx_bf16":
        groups = padded_k // kernels.group
        return ((panel * groups + group) * kernels.panel + column) * kernels.group + lane
    tile, pair = divmod(group, 16)
    half, column = divmod(column, 16)
    tiles = padded_k // 32
    return ((((panel * tiles + tile) * 2 + half) * 16 + pair) * 16 + column) * 2 + lane


def k_units(kernels, slot):
    """Padding of each block of inputs: none, a map's, or that of a product's outputs."""
    return {"image": 1, "map": kernels.unit, "matrix": kernels.panel}[slot.source]


@pytest.mark.parametrize("kernels", SETS)
def test_every_element_lies_where_the_form_says(kernels):
    weights = weights_of(PLAN)
    buffer = pack(PLAN, weights, kernels)
    for i, weight in enumerate(weights):
        slot, found = part(PLAN, buffer, kernels, i)
        if slot.kind != "matrix":
            continue
        block = up(slot.k, k_units(kernels, slot))
        padded_k = up(slot.parts * block, 32 if kernels.name == "amx_bf16" else kernels.group)
        expected = torch.zeros(up(slot.n, kernels.panel) * padded_k, dtype=kernels.dtype)
        assert len(found) == len(expected)
        rounded = weight.to(kernels.dtype)
        for n, p in product(range(slot.n), range(slot.parts)):
            for k in range(slot.k):
                expected[place(kernels, n, p * block + k, padded_k)] = rounded[n, p, k]
        assert torch.equal(found, expected)


@pytest.mark.parametrize("kernels", SETS)
def test_vectors_are_padded_with_zeros_and_aligned(kernels):
    weights = [w + 1 for w in weights_of(PLAN)]
    buffer = pack(PLAN, weights, kernels)
    assert all(start % ALIGNMENT == 0 for start in offsets(PLAN, kernels))
    assert buffer.data_ptr() % ALIGNMENT == 0
    for i, weight in enumerate(weights):
        slot, found = part(PLAN, buffer, kernels, i)
        if slot.kind == "matrix":
            continue
        rows = found.view(*slot.shape[:-1], -1)
        assert rows.shape[-1] % (kernels.unit if slot.source == "map" else kernels.panel) == 0
        assert torch.equal(rows[..., : slot.n], weight.float())
        assert not rows[..., slot.n :].any()


@pytest.mark.parametrize("kernels", SETS)
def test_unpacking_gives_the_weights_back(kernels):
    weights = weights_of(PLAN)
    back = list(unpack(PLAN, pack(PLAN, weights, kernels), kernels))
    for slot, weight, found in zip(PLAN.slots(), weights, back, strict=True):
        assert torch.equal(found, weight.to(slot.dtype(kernels)).float())


def test_a_plan_comes_back_from_its_numbers():
    assert Plan.from_ints(PLAN.to_ints()) == PLAN


def test_wrong_buffers_are_refused():
    buffer = pack(PLAN, weights_of(PLAN), PLAIN)
    check(PLAN, buffer, PLAIN)
    for wrong in (buffer[:-1], buffer.to("meta"), buffer.view(torch.int8), buffer[None]):
        with pytest.raises(ValueError, match="do not fit"):
            check(PLAN, wrong, PLAIN)
    with pytest.raises(ValueError, match="unknown kernel set 99"):
        kernel_set(99)
    with pytest.raises(ValueError, match="expected \\(N, 5, H, W\\)"):
        fused_convnext(torch.zeros(1, 3, 32, 32), buffer, network_numbers(PLAN, PLAIN), [0], 1e-6)


def test_the_operator_passes_the_checks_of_operators():
    buffer = pack(PLAN, weights_of(PLAN), PLAIN)
    x = torch.randn(2, 5, 33, 40)
    for wanted in ([0, 1, 2], [2], [1]):
        args = (x, buffer, network_numbers(PLAN, PLAIN), wanted, 1e-6)
        torch.library.opcheck(fused_convnext, args)
        torch.library.opcheck(fused_convnext, (x[:0], *args[1:]))


def test_the_weights_in_bf16_change_the_outcome_by_their_rounding_only():
    weights, x = weights_of(PLAN), torch.randn(2, 5, 33, 40)
    exact = plain_answer(weights, x)
    rounded = [w.bfloat16().double() if w.ndim == 3 else w for w in weights]
    assert not torch.equal(plain_answer(rounded, x), exact)
    torch.testing.assert_close(plain_answer(rounded, x), exact, rtol=0, atol=0.05)


def plain_answer(weights, x):
    buffer = pack(PLAN, weights, PLAIN)
    return fused_convnext(x, buffer, network_numbers(PLAN, PLAIN), [2], 1e-6)[0]


def test_sizes_follow_from_slots():
    assert Slot("matrix", 20, 80, source="image").shape == (20, 1, 80)
    assert PLAN.sizes(33, 40) == [(16, 20), (8, 10)]
