"""Quantised blocks in native code against the same arithmetic in plain PyTorch."""

from dataclasses import replace

import pytest
import torch
from test_network import CASES, EPS, SMALL, UNEVEN, error, random_weights, run
from torch import Tensor

from convnext.deploy.calibration import calibrate
from convnext.deploy.fused import unwatched
from convnext.deploy.quantised import quantised_weights
from convnext.ops.cpu import building
from convnext.ops.cpu.kernel_sets import KERNEL_SETS, KernelSet
from convnext.ops.cpu.library import Library
from convnext.ops.cpu.packing import pack, unpack
from convnext.ops.cpu.plan import Plan
from convnext.ops.cpu.reference import reference

pytestmark = pytest.mark.skipif(
    not building.supported() or not building.compilers(), reason="no compiler for x86-64"
)

SETS = [k for k in KERNEL_SETS if k.number >= 0 and k.int8 is not None]
# Of the root mean square. Numbers that lie between two integers may be rounded either way, and what
# that changes brings others between two integers in the blocks that follow. Most numbers of the
# first stage agree to the precision of what surrounds the products.
TOLERANCE = {"fp32": 5e-3, "bf16": 2e-2}
MEDIAN = {"fp32": 1e-5, "bf16": 1e-2}


def quantised(plan: Plan, x: Tensor, keep: int = -1) -> tuple[Plan, list[Tensor]]:
    """The plan and weights with every block quantised but one."""
    weights = random_weights(plan)
    ranges, _ = calibrate(
        plan,
        weights,
        [x],
        eps=EPS,
        answer=lambda y: y,
        classes=False,
        max_error=1e9,
        watch=unwatched,
    )
    if keep >= 0:
        ranges[keep] = None
    flags = tuple(found is not None for found in ranges)
    return replace(plan, quantised=flags), list(quantised_weights(plan, weights, ranges))


@pytest.mark.parametrize("kernels", SETS, ids=lambda kernels: kernels.name)
@pytest.mark.parametrize("case", CASES)
def test_every_output(native: Library, kernels: KernelSet, case: str) -> None:
    plan, shape = CASES[case]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    keep = 2 if sum(plan.depths) > 2 else -1
    plan, weights = quantised(plan, x, keep)
    rounded = list(unpack(plan, pack(plan, weights, kernels), kernels))
    expected = reference(plan, x, rounded, EPS)
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found = run(native, plan, kernels, x, weights)
        for i, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
            assert error(ours, theirs) < TOLERANCE[kernels.precision], (threads, i)
        difference = (found[0] - expected[0]).abs().median() / expected[0].square().mean().sqrt()
        assert difference < MEDIAN[kernels.precision]


@pytest.mark.parametrize("kernels", SETS, ids=lambda kernels: kernels.name)
@pytest.mark.parametrize("grn", [False, True])
def test_layout_threads_and_company_change_nothing(
    native: Library, kernels: KernelSet, grn: bool
) -> None:
    x = torch.randn(7, 3, 80, 52, generator=torch.Generator().manual_seed(2))
    plan, weights = quantised(replace(UNEVEN, grn=grn), x)
    torch.set_num_threads(1)
    alone = torch.cat([run(native, plan, kernels, one, weights)[-1] for one in x.split(1)])
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        for layout in (x, x.contiguous(memory_format=torch.channels_last)):
            found = run(native, plan, kernels, layout, weights)[-1]
            # threads add the squares of GRN in another order
            assert error(found, alone) < 2e-3 if grn else torch.equal(found, alone)


@pytest.mark.parametrize("kernels", SETS, ids=lambda kernels: kernels.name)
@pytest.mark.parametrize("grn", [False, True])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nan_goes_as_far_as_in_pytorch(
    native: Library, kernels: KernelSet, grn: bool, value: float
) -> None:
    x = torch.randn(3, 3, 256, 64, generator=torch.Generator().manual_seed(2))
    plan, weights = quantised(replace(SMALL, grn=grn), x)
    x[1, 0, 40, 10] = value
    expected = reference(plan, x, weights, EPS)
    for ours, theirs in zip(run(native, plan, kernels, x, weights), expected, strict=True):
        assert torch.equal(ours.isnan(), theirs.isnan())


@pytest.mark.parametrize("kernels", SETS, ids=lambda kernels: kernels.name)
def test_rows_of_zeros(native: Library, kernels: KernelSet) -> None:
    """LayerNorm of channels that are all equal is 0, whatever the largest of them."""
    plan, weights = quantised(SMALL, torch.randn(2, 3, 64, 64))
    for slot, weight in zip(plan.slots(), weights, strict=True):
        if slot.kind == "taps":
            weight.zero_()
    taps = [i for i, slot in enumerate(plan.slots()) if slot.kind == "taps"]
    for i in taps:
        weights[i + 1].zero_()  # the bias of the depthwise convolution
    x = torch.randn(2, 3, 64, 64)
    expected = reference(plan, x, weights, EPS)
    for ours, theirs in zip(run(native, plan, kernels, x, weights), expected, strict=True):
        assert error(ours, theirs) < TOLERANCE[kernels.precision]


def test_kernels_without_integers_refuse(native: Library) -> None:
    x = torch.randn(1, 3, 32, 32)
    plan, weights = quantised(SMALL, x)
    with pytest.raises(ValueError, match="no products of 8-bit integers"):
        run(native, plan, KERNEL_SETS[1], x, weights)
    places = [64] * len(weights)  # addresses that are not read
    with pytest.raises(RuntimeError, match="malformed"):
        native.run(plan, KERNEL_SETS[1], x, places, [None] * 5, EPS)
