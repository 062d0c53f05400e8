"""The packed form of weights, element by element, and what it computes."""

from dataclasses import replace
from itertools import product

import pytest
import torch

from convnext.ops.cpu.fused import fused_convnext, network_numbers, profile
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
QUANTISED = replace(PLAN, quantised=(True, False, True))
CASES = [
    *(pytest.param(kernels, PLAN, id=kernels.name) for kernels in KERNEL_SETS),
    *(
        pytest.param(kernels, QUANTISED, id=f"{kernels.name}, quantised")
        for kernels in KERNEL_SETS
        if kernels.int8 is not None
    ),
]


def weights_of(plan):
    return [weight_of(slot) for slot in plan.slots()]


def weight_of(slot):
    if slot.number == "int8":
        return torch.randint(-127, 128, slot.shape).double()
    if slot.number == "int32":
        return torch.randint(-(2**31), 2**31, slot.shape).double()
    return torch.randn(slot.shape, dtype=torch.float64) * 0.1


def part(plan, buffer, kernels, i):
    slot, start = list(plan.slots())[i], offsets(plan, kernels)[i]
    dtype = slot.dtype(kernels)
    return slot, buffer[start : start + slot.size(kernels) * dtype.itemsize].view(dtype)


def up(n, unit):
    return (n + unit - 1) // unit * unit


def place(layout, n, k, padded_k):
    """Where element (n, k) of a matrix lies, from the definition of the form."""
    panel, column = divmod(n, layout.panel)
    group, lane = divmod(k, layout.group)
    if not layout.half:
        groups = padded_k // layout.group
        return ((panel * groups + group) * layout.panel + column) * layout.group + lane
    tile, inner = divmod(group, 16)
    half, column = divmod(column, 16)
    tiles = padded_k // (16 * layout.group)
    return ((((panel * tiles + tile) * 2 + half) * 16 + inner) * 16 + column) * layout.group + lane


def k_units(kernels, slot):
    """Padding of each block of inputs: none, a map's, or that of a product's outputs."""
    return {"image": 1, "map": kernels.unit, "matrix": kernels.panel}[slot.source]


@pytest.mark.parametrize(("kernels", "plan"), CASES)
def test_every_element_lies_where_the_form_says(kernels, plan):
    weights = weights_of(plan)
    buffer = pack(plan, weights, kernels)
    for i, weight in enumerate(weights):
        slot, found = part(plan, buffer, kernels, i)
        if slot.kind != "matrix":
            continue
        layout = kernels.int8 if slot.number == "int8" else kernels
        dtype = torch.int8 if slot.number == "int8" else kernels.dtype
        block = up(slot.k, k_units(kernels, slot))
        padded_k = up(slot.parts * block, layout.group * (16 if layout.half else 1))
        expected = torch.zeros(up(slot.n, layout.panel) * padded_k, dtype=dtype)
        assert len(found) == len(expected)
        rounded = weight.to(dtype)
        for n, p in product(range(slot.n), range(slot.parts)):
            for k in range(slot.k):
                expected[place(layout, n, p * block + k, padded_k)] = rounded[n, p, k]
        assert torch.equal(found, expected)


@pytest.mark.parametrize(("kernels", "plan"), CASES)
def test_vectors_are_padded_with_zeros_and_aligned(kernels, plan):
    weights = weights_of(plan)
    buffer = pack(plan, weights, kernels)
    assert all(start % ALIGNMENT == 0 for start in offsets(plan, kernels))
    assert buffer.data_ptr() % ALIGNMENT == 0
    for i, weight in enumerate(weights):
        slot, found = part(plan, buffer, kernels, i)
        if slot.kind == "matrix":
            continue
        rows = found.view(*slot.shape[:-1], -1)
        assert rows.shape[-1] % k_units(kernels, slot) == 0
        assert rows.dtype == (torch.int32 if slot.number == "int32" else torch.float32)
        assert torch.equal(rows[..., : slot.n], weight.to(rows.dtype))
        assert not rows[..., slot.n :].any()


@pytest.mark.parametrize(("kernels", "plan"), CASES)
def test_unpacking_gives_the_weights_back(kernels, plan):
    weights = weights_of(plan)
    back = list(unpack(plan, pack(plan, weights, kernels), kernels))
    for slot, weight, found in zip(plan.slots(), weights, back, strict=True):
        assert torch.equal(found.double(), weight.to(slot.dtype(kernels)).double())


def test_a_plan_comes_back_from_its_numbers():
    for plan in (PLAN, QUANTISED):
        assert Plan.from_ints(plan.to_ints()) == plan


def test_only_kernels_that_multiply_integers_take_quantised_networks():
    avx2 = KERNEL_SETS[1]
    with pytest.raises(ValueError, match="avx2_fp32 have no products of 8-bit integers"):
        pack(QUANTISED, weights_of(QUANTISED), avx2)


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


NUMBERS = network_numbers(PLAN, PLAIN)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"wanted": [0, 0]}, "has an output twice"),
        ({"wanted": [-1]}, r"output -1 is not in 0\.\.2"),
        ({"wanted": [3]}, r"output 3 is not in 0\.\.2"),
        ({"network": []}, "names no kernels"),
        ({"network": [77]}, "unknown kernel set 77"),
        ({"network": NUMBERS[:1]}, "describes no network"),
        ({"network": NUMBERS[:-1]}, "describes no network"),
        ({"network": [*NUMBERS, 1]}, "describes no network"),
        ({"network": [*NUMBERS[:7], 9, *([1] * 18)]}, "describes no network"),
        ({"network": [*NUMBERS[:-1], 0]}, "describes no network"),
        ({"network": [NUMBERS[0], 5, 4, 0, *NUMBERS[4:]]}, "describes no network"),
        ({"x": torch.zeros(1, 5, 3, 32)}, r"\(1, 5, 3, 32\) does not fit: .* at least 4"),
        ({"x": torch.zeros(5, 32, 32)}, "does not fit"),
    ],
)
def test_wrong_arguments_of_the_operator_are_named(changed, reason):
    right = {
        "x": torch.zeros(1, 5, 32, 32),
        "weights": pack(PLAN, weights_of(PLAN), PLAIN),
        "network": NUMBERS,
        "wanted": [0, 2],
        "eps": 1e-6,
    }
    fused_convnext(**right)
    with pytest.raises(ValueError, match=reason):
        fused_convnext(**right | changed)
    if "wanted" not in changed:
        right.pop("wanted")
        with pytest.raises(ValueError, match=reason):
            profile(**right | changed)


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
