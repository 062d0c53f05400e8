"""Whether values fit fp16, as proved from weights, against values that networks take."""

from dataclasses import replace
from itertools import islice

import pytest
import torch
import torch.nn.functional as F

from convnext.deploy import half_range
from convnext.deploy.calibration import calibrate
from convnext.deploy.folding import folded_weights, plan_of
from convnext.deploy.fused import FusedConvNeXt, unwatched
from convnext.deploy.half_range import HalfRange
from convnext.deploy.quantised import quantised_weights
from convnext.models.registry import build_model
from convnext.ops.cpu.kernel_sets import KERNEL_SETS
from convnext.ops.cpu.packing import pack, unpack
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
    """Of stem, then for each block of its sums and its map; and of maps after downsampling."""
    found, checked = [], HalfRange._checked

    def note(self, values):
        found.append(float(values.max()))
        return checked(self, values)

    monkeypatch.setattr(HalfRange, "_checked", note)
    assert fits(plan, weights)
    return found


def values(plan, x, weights):
    """The largest that the network takes in the same places."""
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
            found.append(F.conv2d(x, taps, part[1].float(), padding=3, groups=len(taps)))
            x = block(x.permute(0, 2, 3, 1), iter(part), EPS, grn=plan.grn, quantised=flag)
            found.append(x)
    return [float(value.abs().max()) for value in found]


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
        assert value <= bound
    assert taken[0] > proved[0] / 4  # the bounds are of some use


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
        assert value <= bound


@torch.no_grad()
def test_the_worst_that_a_block_can_add_is_near_its_bound():
    """One hidden channel along the only input that counts."""
    channels, hidden = 16, 64
    first = torch.zeros(hidden, 1, channels)
    first[3, 0] = 5.0
    second = torch.zeros(channels, 1, hidden)
    second[7, 0, 3] = 2.0
    bias = torch.zeros(channels).double()
    more = half_range._from_hidden(first, torch.zeros(hidden).double(), second, bias)
    longest = 5 * channels**0.5 * channels**0.5 * 2
    assert more[7] == pytest.approx(longest, rel=0.02)
    assert more[torch.arange(channels) != 7].max() < 0.2


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
    # Their weights are looked at again wherever they are packed for such kernels.
    fine.load_state_dict(FusedConvNeXt(model, KERNEL_SETS[1]).state_dict())
    assert fine.kernels is kernels.otherwise
    with torch.inference_mode():
        assert (fine(x) - model(x)).abs().max() < 0.05 * model(x).abs().max()


@pytest.mark.parametrize("kernels", HALF, ids=lambda kernels: kernels.name)
def test_both_sets_read_the_same_weights(kernels):
    model = network()
    plan, weights = plan_of(model), list(folded_weights(model))
    packed = pack(plan, weights, kernels)
    assert torch.equal(packed, pack(plan, weights, kernels.otherwise))
    for a, b in zip(unpack(plan, packed, kernels), weights, strict=True):
        assert a.shape == b.shape
