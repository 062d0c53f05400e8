"""The native network through its C interface, every set of kernels, against plain PyTorch.

The library is compiled so that all sets run on AVX2: what the CPU lacks is emulated. Where it has
more, the installed library runs as well.
"""

import ctypes
import resource
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from convnext.ops.cpu import building
from convnext.ops.cpu.kernel_sets import KERNEL_SETS, KernelSet
from convnext.ops.cpu.library import Library, _call
from convnext.ops.cpu.packing import offsets, pack, unpack
from convnext.ops.cpu.plan import Plan
from convnext.ops.cpu.reference import reference

EPS = 1e-6
NATIVE = [kernels for kernels in KERNEL_SETS if kernels.number >= 0]
WIDE = [kernels for kernels in NATIVE if kernels.maps != "fp16"]  # those take any network
FP32 = [kernels for kernels in NATIVE if kernels.precision == "fp32"]
TOLERANCE = {"fp32": 3e-6, "bf16": 1e-2}  # of the root mean square
SMALL = Plan(
    in_chans=3,
    stem_kernel=4,
    stem_stride=4,
    stem_padding=0,
    stem_norm=True,
    grn=False,
    depths=(1, 1, 2, 1),
    dims=(8, 16, 24, 40),
)
UNEVEN = replace(SMALL, dims=(7, 19, 33, 50))
ISOTROPIC = replace(SMALL, stem_kernel=16, stem_stride=16, stem_norm=False, depths=(2,), dims=(48,))
DEEP = replace(ISOTROPIC, depths=(1,), dims=(520,))  # products in several chunks
CASES = {
    "small": (SMALL, (2, 3, 64, 64)),
    "odd sides": (SMALL, (3, 3, 75, 53)),
    "uneven widths": (UNEVEN, (2, 3, 70, 70)),
    "grn": (replace(SMALL, grn=True), (3, 3, 75, 101)),
    "grn, uneven widths": (replace(UNEVEN, grn=True), (5, 3, 64, 64)),
    "isotropic": (ISOTROPIC, (3, 3, 100, 100)),
    "deep": (DEEP, (3, 3, 112, 112)),
    "deep, grn": (replace(DEEP, grn=True), (3, 3, 112, 112)),
    "stride 2": (replace(SMALL, stem_stride=2, stem_padding=1), (1, 3, 33, 47)),
    "stride 1, grey": (
        replace(SMALL, in_chans=1, stem_kernel=3, stem_stride=1, stem_padding=1),
        (2, 1, 20, 19),
    ),
    "many images": (replace(SMALL, in_chans=5), (33, 5, 32, 40)),
    "wide image": (replace(SMALL, dims=(16, 32, 48, 64)), (1, 3, 32, 1100)),
}

pytestmark = pytest.mark.skipif(
    not building.supported() or not building.compilers(), reason="no compiler for x86-64"
)


def random_weights(plan: Plan) -> list[Tensor]:
    g = torch.Generator().manual_seed(1)
    scale = {"matrix": lambda slot: (slot.k * slot.parts) ** -0.5, "taps": lambda slot: 1 / 7}
    return [
        torch.randn(slot.shape, generator=g) * scale.get(slot.kind, lambda slot: 0.2)(slot)
        + (0.1 if slot.kind == "vector" else 0)
        for slot in plan.slots()
    ]


def run(
    native: Library, plan: Plan, kernels: KernelSet, x: Tensor, weights: list[Tensor]
) -> list[Tensor]:
    """All outputs; what is not written stays NaN."""
    buffer = pack(plan, weights, kernels)
    memory = torch.empty(len(buffer) + 64, dtype=torch.uint8)
    start = -memory.data_ptr() % 64
    memory[start : start + len(buffer)] = buffer
    places = [memory.data_ptr() + start + offset for offset in offsets(plan, kernels)[:-1]]
    shapes = zip(plan.dims, plan.sizes(*x.shape[2:]), strict=True)
    maps = [torch.full((len(x), h, w, c), torch.nan).movedim(3, 1) for c, (h, w) in shapes]
    outputs = [*maps, torch.full((len(x), plan.dims[-1]), torch.nan)]
    native.run(plan, kernels, x, places, outputs, EPS)
    return outputs


def error(found: Tensor, expected: Tensor) -> float:
    """Root mean square, relative."""
    return float(((found - expected).square().mean() / expected.square().mean()).sqrt())


@pytest.mark.parametrize("kernels", NATIVE, ids=lambda kernels: kernels.name)
@pytest.mark.parametrize("case", CASES)
def test_every_output(native: Library, kernels: KernelSet, case: str) -> None:
    plan, shape = CASES[case]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    weights = random_weights(plan)
    rounded = list(unpack(plan, pack(plan, weights, kernels), kernels))
    expected = reference(plan, x, rounded, EPS)
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found = run(native, plan, kernels, x, weights)
        for i, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
            assert error(ours, theirs) < TOLERANCE[kernels.precision], (threads, i)


@pytest.mark.parametrize("kernels", NATIVE, ids=lambda kernels: kernels.name)
def test_layout_threads_and_company_change_nothing(native: Library, kernels: KernelSet) -> None:
    x = torch.randn(7, 3, 80, 52, generator=torch.Generator().manual_seed(2))
    weights = random_weights(UNEVEN)
    torch.set_num_threads(1)
    alone = torch.cat([run(native, UNEVEN, kernels, one, weights)[-1] for one in x.split(1)])
    wide = torch.randn(7, 3, 80, 104)
    wide[..., ::2] = x
    layouts = (x, x.contiguous(memory_format=torch.channels_last), wide[..., ::2])
    for threads in (1, 2, 5, 9):
        torch.set_num_threads(threads)
        for layout in layouts:
            assert torch.equal(run(native, UNEVEN, kernels, layout, weights)[-1], alone)
    one = x[:1, :1, :1].expand(4, 3, 80, 52)
    found = run(native, UNEVEN, kernels, one, weights)[-1]
    assert torch.equal(found, run(native, UNEVEN, kernels, one.contiguous(), weights)[-1])


@pytest.mark.parametrize("kernels", NATIVE, ids=lambda kernels: kernels.name)
@pytest.mark.parametrize("grn", [False, True])
def test_nan_goes_as_far_as_in_pytorch(native: Library, kernels: KernelSet, grn: bool) -> None:
    plan = replace(SMALL, grn=grn)
    x = torch.randn(3, 3, 256, 64, generator=torch.Generator().manual_seed(2))
    x[1, 0, 40, 10] = torch.nan
    weights = random_weights(plan)
    expected = reference(plan, x, weights, EPS)
    for ours, theirs in zip(run(native, plan, kernels, x, weights), expected, strict=True):
        assert torch.equal(ours.isnan(), theirs.isnan())


@pytest.mark.parametrize("kernels", WIDE, ids=lambda kernels: kernels.name)
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_inputs_of_any_size(native: Library, kernels: KernelSet, scale: float) -> None:
    x = scale * torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    weights = random_weights(ISOTROPIC)
    found = run(native, ISOTROPIC, kernels, x, weights)[0]
    rounded = list(unpack(ISOTROPIC, pack(ISOTROPIC, weights, kernels), kernels))
    expected = reference(ISOTROPIC, x, rounded, EPS)[0]
    assert error(found, expected) < TOLERANCE[kernels.precision]


@pytest.mark.parametrize("kernels", NATIVE, ids=lambda kernels: kernels.name)
def test_squares_that_overflow_give_nan(native: Library, kernels: KernelSet) -> None:
    weights = random_weights(SMALL)
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2)) * 1e25
    assert reference(SMALL, x, weights, EPS)[-1].isnan().all()
    assert run(native, SMALL, kernels, x, weights)[-1].isnan().all()


@pytest.mark.parametrize("kernels", FP32, ids=lambda kernels: kernels.name)
def test_gelu(native: Library, kernels: KernelSet) -> None:
    """A block whose first product gives numbers of our choice, and whose second copies them."""
    width, side = 256, 7.0
    plan = replace(ISOTROPIC, in_chans=1, depths=(1,), dims=(width,))
    numbers = torch.cat([torch.linspace(-side, side, 4 * width - 2), torch.tensor([-1e4, 1e4])])
    for quarter in range(4):
        part = slice(width * quarter, width * (quarter + 1))
        weights = [torch.zeros(slot.shape) for slot in plan.slots()]
        weights[5] = numbers  # after stem, its bias, taps, their bias, W1
        weights[6][:, 0, part] = torch.eye(width)
        x = numbers[part]
        found = run(native, plan, kernels, torch.zeros(1, 1, 16, 16), weights)[-1][0]
        exact = x.double() * torch.special.ndtr(x.double())
        assert ((found - exact).abs() / x.abs().clamp(min=1)).max() < 2.3e-7
    assert found[-2:].tolist() == [0, 1e4]


def test_several_callers_at_once(native: Library) -> None:
    kernels = NATIVE[0]
    weights = random_weights(SMALL)
    images = torch.randn(6, 2, 3, 96, 96, generator=torch.Generator().manual_seed(2))
    torch.set_num_threads(2)
    expected = [run(native, SMALL, kernels, x, weights)[-1] for x in images]

    def call(i: int) -> Tensor:
        return run(native, SMALL, kernels, images[i % 6], weights)[-1]

    with ThreadPoolExecutor(4) as pool:
        for i, found in enumerate(pool.map(call, range(48))):
            assert torch.equal(found, expected[i % 6])


def test_refusals(native: Library) -> None:
    kernels, weights = NATIVE[0], random_weights(ISOTROPIC)
    with pytest.raises(RuntimeError, match="malformed"):  # one weight too many
        native.run(ISOTROPIC, kernels, torch.zeros(1, 3, 32, 32), [64] * 15, [None] * 2, EPS)
    places = [64] * len(list(SMALL.slots()))  # addresses that are not read
    with pytest.raises(RuntimeError, match="malformed"):
        native.run(SMALL, kernels, torch.zeros(1, 3, 24, 64), places, [None] * 5, EPS)
    with pytest.raises(RuntimeError, match="not for this CPU"):
        run(native, ISOTROPIC, replace(kernels, number=99), torch.zeros(1, 3, 32, 32), weights)
    assert run(native, ISOTROPIC, kernels, torch.zeros(0, 3, 32, 32), weights)[-1].shape == (0, 48)


@pytest.mark.parametrize("lacking", ["image", "first weight", "last weight"])
def test_null_is_refused(native: Library, lacking: str) -> None:
    number, null = len(list(ISOTROPIC.slots())), {"first weight": 0, "last weight": -1}
    image, places = torch.zeros(1, 3, 32, 32), (ctypes.c_void_p * number)(*[64] * number)
    if lacking in null:
        places[null[lacking]] = None
    call = ctypes.byref(_call(ISOTROPIC, NATIVE[0], image, EPS))
    start = None if lacking == "image" else image.data_ptr()
    assert native._run(call, start, places, number, (ctypes.c_void_p * 2)(), None) == 2


@pytest.mark.parametrize("threads", [1, 2])
def test_the_memory_of_a_large_image_is_given_back(native: Library, threads: int) -> None:
    plan, kernels = replace(ISOTROPIC, stem_kernel=2, stem_stride=2, depths=(0,)), NATIVE[0]
    weights, side = random_weights(plan), 2048  # two maps of 200 MB, one of them filled
    torch.set_num_threads(threads)

    def held(image: Tensor) -> int:
        pooled = torch.empty(len(image), plan.dims[-1])
        buffer = pack(plan, weights, kernels)
        places = [buffer.data_ptr() + offset for offset in offsets(plan, kernels)[:-1]]
        native.run(plan, kernels, image, places, [None, pooled], EPS)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    large, small = torch.zeros(1, 3, 1, 1).expand(1, 3, side, side), torch.zeros(threads, 3, 32, 32)
    before = held(small)
    assert held(large) - before < 2**26


def test_out_of_memory_is_an_error_of_the_caller(native: Library) -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2**37, before[1]))  # else the system might promise it
    places = [64] * len(list(SMALL.slots()))  # addresses that are not read
    image = torch.zeros(1, 3, 1, 1).expand(1, 3, 2**18, 2**18)  # maps of 2**38 bytes
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            with pytest.raises(MemoryError):
                native.run(SMALL, NATIVE[0], image, places, [None] * 5, EPS)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_profile(native: Library) -> None:
    plan, kernels = replace(SMALL, grn=True), NATIVE[0]
    weights = random_weights(plan)
    buffer = pack(plan, weights, kernels)
    places = [buffer.data_ptr() + offset for offset in offsets(plan, kernels)[:-1]]
    seconds = torch.zeros(4, 6, dtype=torch.float64)
    pooled = torch.empty(2, plan.dims[-1])
    native.run(
        plan, kernels, torch.randn(2, 3, 96, 96), places, [None] * 4 + [pooled], EPS, seconds
    )
    assert (seconds > 0).all()
    assert pooled.isfinite().all()


def test_profile_leaves_out_waiting(native: Library) -> None:
    """Of one position one of two threads does everything up to GRN, the other waits."""
    plan, kernels = replace(DEEP, grn=True, depths=(6,)), NATIVE[0]
    buffer = pack(plan, random_weights(plan), kernels)
    places = [buffer.data_ptr() + offset for offset in offsets(plan, kernels)[:-1]]
    seconds = torch.zeros(1, 6, dtype=torch.float64)
    torch.set_num_threads(2)
    image, pooled = torch.randn(1, 3, 16, 16), torch.empty(1, plan.dims[-1])
    native.run(plan, kernels, image, places, [None, pooled], EPS, seconds)
    expand, response = seconds[0, 3:5].tolist()
    assert response < expand / 4
