"""Whether values fit fp16, as proved from weights, against values that networks take."""

import pickle
from dataclasses import replace
from itertools import chain, islice

import pytest
import torch
import torch.nn.functional as F

from convnext.deploy import fused, half_range
from convnext.deploy.calibration import calibrate
from convnext.deploy.folding import folded_weights, plan_of
from convnext.deploy.fused import FusedConvNeXt, unwatched
from convnext.deploy.half_range import HalfRange
from convnext.deploy.quantised import quantised_weights
from convnext.models.registry import build_model
from convnext.ops.cpu.kernel_sets import KERNEL_SETS, PLAIN
from convnext.ops.cpu.packing import pack, unpack
from convnext.ops.cpu.plan import Plan
from convnext.ops.cpu.reference import block, downsample, stem
from perturbed import perturb

EPS = 1e-6
HALF = [kernels for kernels in KERNEL_SETS if kernels.maps == "fp16"]
TINY = {"depths": (1, 2, 1), "dims": (24, 40, 72), "num_classes": 5}


def network(seed=0, **args):
    torch.manual_seed(seed)
    model = build_model("convnext_atto", **{**TINY, **args}).eval()
    perturb(model)
    return model


def fits(plan, weights):
    values = HalfRange(plan)
    for _ in values.follow(weights):
        pass
    return values.fits


def bounds(monkeypatch, plan, weights):
    """Of each channel: of the first map, of every block's sums and its map, of downsampled maps."""
    found, checked = [], HalfRange._checked

    def note(self, values):
        found.append(values)
        return checked(self, values)

    monkeypatch.setattr(HalfRange, "_checked", note)
    assert fits(plan, weights)
    return found


def values(plan, x, weights):
    """The largest that the network takes of them."""
    left, flags, found = iter(weights), iter(plan.flags), []
    x = stem(plan, x, left, EPS)
    found.append(x)
    for i, depth in enumerate(plan.depths):
        if i:
            x = downsample(x, left, EPS)
            found.append(x)
        for flag in islice(flags, depth):
            part = list(islice(left, (13 if flag else 6) + plan.grn))
            taps = part[0].t().reshape(-1, 1, 7, 7)
            x = x.permute(0, 3, 1, 2)
            sums = F.conv2d(x, taps, part[1].float(), padding=3, groups=len(taps))
            found.append(sums.permute(0, 2, 3, 1))
            x = block(x.permute(0, 2, 3, 1), iter(part), EPS, grn=plan.grn, quantised=flag)
            found.append(x)
    return [value.abs().amax((0, 1, 2)) for value in found]


def images():
    """Noise, all one colour, edges, one pixel: what drives LayerNorm to its corners."""
    x = torch.randn(8, 3, 64, 64)
    x[1] = 1
    x[2, :, :, ::2] = 100
    x[3] = 0
    x[3, 0, 30, 30] = 1e6
    x[4, :, 32:] = -50
    return x


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("grn", [False, True])
@torch.no_grad()
def test_no_value_is_above_its_bound(monkeypatch, grn, seed):
    model = network(seed, grn=grn)
    plan, weights = plan_of(model), [w.float() for w in folded_weights(model)]
    proved, taken = bounds(monkeypatch, plan, weights), values(plan, images(), weights)
    assert len(proved) == len(taken)
    for bound, value in zip(proved, taken, strict=True):
        assert (value <= bound).all()


@pytest.mark.parametrize("grn", [False, True])
@torch.no_grad()
def test_no_value_of_quantised_blocks_is_above_its_bound(monkeypatch, grn):
    model, x = network(grn=grn), images()
    plan, weights = plan_of(model), list(folded_weights(model))
    found, _ = calibrate(
        plan,
        weights,
        [x],
        eps=EPS,
        answer=lambda y: y,
        classes=False,
        max_error=1e9,
        watch=unwatched,
    )
    found[1] = None
    quantised = replace(plan, quantised=tuple(r is not None for r in found))
    weights = [w.float() for w in quantised_weights(plan, weights, found)]
    proved, taken = bounds(monkeypatch, quantised, weights), values(quantised, x, weights)
    for bound, value in zip(proved, taken, strict=True):
        assert (value <= bound).all()


C = 16
SIGNS = torch.ones(C)
SIGNS[::2] = -1  # LayerNorm leaves it as it is: the longest vector that there is


def one_stage(depth, **kinds):
    return Plan(
        in_chans=1,
        stem_kernel=4,
        stem_stride=4,
        stem_padding=0,
        stem_norm=True,
        depths=(depth,),
        dims=(C,),
        **{"grn": False, **kinds},
    )


def worst_stem(size):
    """A map of SIGNS times a size."""
    return [torch.zeros(C, 1, 16), SIGNS, size * torch.ones(C), torch.zeros(C)]


def worst_block(tap, along, out, gamma=()):
    """The depthwise convolution adds SIGNS to 49 taps; one hidden channel is along them."""
    first, second = torch.zeros(4 * C, 1, C), torch.zeros(C, 1, 4 * C)
    first[5, 0] = along * SIGNS
    second[:, 0, 5] = out
    taps, bias = torch.full((49, C), tap), 1e4 * SIGNS
    return [taps, bias, first, torch.zeros(4 * C), *gamma, second, torch.full((C,), 25.0)]


def nearly_attained(monkeypatch, plan, weights):
    """How far each bound is from the value, as a factor, in the channel where it is nearest."""
    x = torch.zeros(1, 1, 64, 64)
    pairs = zip(bounds(monkeypatch, plan, weights), values(plan, x, weights), strict=True)
    factors = [float((bound / value).min()) for bound, value in pairs]
    assert min(factors) > 1 - 1e-5
    return factors


@torch.no_grad()
def test_blocks_that_add_all_they_can(monkeypatch):
    last = worst_block(1.0, 2.0, 0.5)
    last[1] = torch.zeros(C)  # the sums are those of the taps alone
    blocks = [worst_block(0.0, 3.0, 1.5), worst_block(0.0, 2.0, -2.5 * SIGNS), last]
    weights = [*worst_stem(1e-3), *chain(*blocks)]
    factors = nearly_attained(monkeypatch, one_stage(3), weights)
    assert max(factors[1:6]) < 1.02


@pytest.mark.parametrize("width", [3, 40, 96])
def test_how_much_longer_a_matrix_makes_a_vector(width):
    for matrix in (torch.randn(4 * width, width), torch.eye(width), torch.zeros(width, width)):
        exact = float(torch.linalg.matrix_norm(matrix, 2))
        rounding = 2**-8 * float(matrix.norm())
        found = half_range._stretch(1e3 * matrix[:, None]) / 1e3
        assert exact + rounding <= found * (1 + 1e-5) <= 1.4 * exact + 2 * rounding + 1e-5


@torch.no_grad()
def test_grn_of_a_single_channel(monkeypatch):
    plan = one_stage(1, grn=True)
    weights = [*worst_stem(1e-3), *worst_block(0.0, 3.0, 1.5, [torch.full((4 * C,), 0.8)])]
    assert nearly_attained(monkeypatch, plan, weights)[2] < 1.02


@torch.no_grad()
def test_four_corners_all_alike(monkeypatch):
    plan = replace(one_stage(0), depths=(0, 0), dims=(C, 3))
    weights = [*worst_stem(1.0), 7 * SIGNS.expand(3, 4, C).clone(), torch.ones(3)]
    assert nearly_attained(monkeypatch, plan, weights)[1] < 1.001


@pytest.mark.parametrize(("zero", "hidden"), [(200.0, -0.75), (55.0, 9.0)])
@torch.no_grad()
def test_integers_at_the_ends_of_their_range(monkeypatch, zero, hidden):
    plan = one_stage(1, quantised=(True,))
    taps, bias, first, _, second, _ = worst_block(0.0, 0.0, 0.0)
    shift = torch.full((C,), 9000.0 if hidden > 0 else -9000.0)
    weights = [
        *worst_stem(1e-3),
        *(taps, bias, torch.ones(C)),
        *(first, torch.zeros(4 * C), torch.ones(4 * C), torch.full((4 * C,), hidden)),
        *(torch.full((4 * C,), 1e6), torch.tensor([zero])),
        *(torch.full_like(second, 127), torch.zeros(C), torch.full((C,), 0.01), shift),
    ]
    assert nearly_attained(monkeypatch, plan, weights)[2] < 1.001


def scaled(layer, factor):
    def change(model):
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if layer in key:
                    parameter *= factor

    return change


@pytest.mark.parametrize(
    "change",
    [
        scaled("stem.norm", 1e5),
        scaled("pwconv2", 1e4),
        scaled("pwconv1", 1e5),
        scaled("downsample.conv", 1e5),
        scaled("dwconv.weight", 1e4),
        scaled("dwconv.bias", 1e6),
        scaled("dwconv.weight", 1e-6),
        scaled("blocks.0.gamma", float("nan")),
        scaled("dwconv.weight", float("inf")),
    ],
)
def test_what_does_not_fit(change):
    model = network()
    assert fits(plan_of(model), folded_weights(model))
    change(model)
    assert not fits(plan_of(model), folded_weights(model))


def test_stages_without_blocks():
    plan = replace(one_stage(0), depths=(0, 1), dims=(C, 2 * C))
    assert fits(plan, [torch.ones(slot.shape) for slot in plan.slots()])


def test_the_number_of_weights_is_counted_as_ever():
    plan = one_stage(1)
    weights = [torch.ones(slot.shape) for slot in plan.slots()]
    assert len(list(HalfRange(plan).follow([*weights, torch.ones(1)]))) == len(weights) + 1


def test_without_a_norm_after_the_stem_images_decide():
    model = build_model("convnext_isotropic_small", depths=(1,), dims=(32,)).eval()
    assert not fits(plan_of(model), folded_weights(model))


def test_grn_with_large_factors_does_not_fit():
    model = network(grn=True)
    assert fits(plan_of(model), folded_weights(model))
    scaled("grn.gamma", 1e4)(model)
    assert not fits(plan_of(model), folded_weights(model))


@pytest.mark.parametrize("kernels", HALF, ids=lambda kernels: kernels.name)
def test_networks_get_the_kernels_that_their_values_fit(kernels):
    model, x = network(), torch.randn(2, 3, 32, 32)
    fine = FusedConvNeXt(model, kernels)
    assert fine.kernels is kernels
    scaled("stem.norm", 1e5)(model)
    large = FusedConvNeXt(model, kernels)
    assert large.kernels is kernels.otherwise
    assert large.network_numbers[0] == kernels.otherwise.number
    with torch.inference_mode():
        assert (large(x) - model(x)).abs().max() < 0.05 * model(x).abs().max()
    # Weights are looked at again wherever they are packed for such kernels.
    fine.load_state_dict(FusedConvNeXt(model, KERNEL_SETS[1]).state_dict())
    assert fine.kernels is kernels.otherwise
    with torch.inference_mode():
        assert (fine(x) - model(x)).abs().max() < 0.05 * model(x).abs().max()


@pytest.mark.parametrize("fitting", [True, False])
def test_unpickled_on_a_cpu_with_fp16(monkeypatch, fitting):
    model, x = network(), torch.randn(2, 3, 32, 32)
    if not fitting:
        scaled("stem.norm", 1e5)(model)
    written = pickle.dumps(FusedConvNeXt(model, PLAIN))
    monkeypatch.setattr(fused, "_kernels_here", lambda wanted, plan: HALF[0])
    read = pickle.loads(written)  # noqa: S301
    assert read.kernels is (HALF[0] if fitting else HALF[0].otherwise)
    monkeypatch.undo()
    with torch.inference_mode():
        assert (read(x) - model(x)).abs().max() < 0.05 * model(x).abs().max()


@pytest.mark.parametrize("kernels", HALF, ids=lambda kernels: kernels.name)
def test_both_sets_read_the_same_weights(kernels):
    model = network()
    plan, weights = plan_of(model), list(folded_weights(model))
    packed = pack(plan, weights, kernels)
    assert torch.equal(packed, pack(plan, weights, kernels.otherwise))
    for a, b in zip(unpack(plan, packed, kernels), weights, strict=True):
        assert a.shape == b.shape
