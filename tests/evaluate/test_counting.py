"""Counting rules: by hand, and against fvcore's totals as recorded with that tool."""

from decimal import ROUND_HALF_UP, Decimal

import pytest
import timm
import torch
from torch import nn

from convnext.evaluate.counting import RULES, count
from convnext.models.registry import build_model
from convnext.models.roadmap import STEPS
from convnext.published.roadmap import ROAD

# fvcore 0.1.5's FlopCountAnalysis(model, image).total() in 1e9, regimes t and b; rounded to four
# decimals, then to three.
FVCORE = {
    "resnet": (4.111, 15.072),
    "stage_ratio": (4.549, 14.563),
    "patchify_stem": (4.439, 14.418),
    "depthwise": (2.371, 7.277),
    "width": (5.300, 16.828),
    "inverted_bottleneck": (4.690, 15.773),
    "move_up_depthwise": (4.091, 14.683),
    "kernel5": (4.123, 14.755),
    "kernel7": (4.172, 14.863),
    "kernel9": (4.236, 15.007),
    "kernel11": (4.317, 15.186),
    "gelu": (4.172, 14.863),
    "fewer_activations": (4.172, 14.863),
    "fewer_norms": (4.150, 14.816),
    "layer_norm": (4.157, 14.831),
    "separate_downsampling": (4.470, 15.384),
}
# The two cells of table 10 that contradict the others, and what they should be.
MISPRINTS = {("t", "layer_norm"): 4.15, ("t", "separate_downsampling"): 4.46}


@pytest.fixture(scope="module")
def road():
    counts = {}
    for regime in "tb":
        for step in STEPS:
            with torch.device("meta"):
                model = build_model(f"roadmap_{regime}_{step.name}")
            counts[regime, step.name] = count(model, (3, 224, 224))
    return counts


def test_the_road_by_fvcores_rule(road):
    for (regime, step), found in road.items():
        expected = FVCORE[step]["tb".index(regime)]
        four = Decimal(found.total("fvcore")).scaleb(-9).quantize(Decimal("0.0001"), ROUND_HALF_UP)
        three = four.quantize(Decimal("0.001"), ROUND_HALF_UP)
        assert three == Decimal(f"{expected:.3f}"), (regime, step)


def test_the_road_by_the_papers_rule(road):
    assert set(MISPRINTS) <= set(road)
    for (regime, step), found in road.items():
        printed = ROAD[step][regime].gflops
        ours = f"{found.total('paper') / 1e9:.2f}"
        assert ours == f"{MISPRINTS.get((regime, step), printed):.2f}", (regime, step)
        assert (float(ours) != printed) == ((regime, step) in MISPRINTS)


def test_by_hand():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.GroupNorm(2, 8, affine=False),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
        nn.LayerNorm(5),
    )
    found = count(net, (3, 10, 14))
    elements = 8 * 5 * 7
    assert found.by_kind["conv"] == 27 * elements
    assert found.by_kind["linear"] == 40
    assert found.by_kind["norm"] == 2 * elements + 4 * elements + 5 * 5
    assert found.activations == elements + 5
    assert found.total("operations") == 2 * found.total("paper") == 2 * (27 * elements + 40)
    assert net.training
    assert all(p.device.type == "cpu" for p in net.parameters())


@pytest.mark.parametrize(
    ("name", "size", "published"),
    [
        ("swin_tiny_patch4_window7_224", 224, 4.5),
        ("swin_base_patch4_window12_384", 384, 47.1),
        ("deit_small_patch16_224", 224, 4.6),
        ("deit_base_patch16_224", 224, 17.6),
        ("regnety_160", 224, 16.0),
    ],
)
def test_other_networks_cost_what_table_1_says(name, size, published):
    with torch.device("meta"):
        found = count(timm.create_model(name), (3, size, size))
    assert round(found.total("paper") / 1e9, 1) == pytest.approx(published, abs=0.11)
    if "deit" in name or "swin" in name:
        assert found.total("modules") < found.total("paper") < found.total("fvcore")


def test_every_rule_explains_itself():
    assert all(len(text) > 40 for _, _, text in RULES.values())


def test_weights_that_are_zero_are_counted_apart():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Flatten(),
        nn.Linear(8 * 16, 10),
    )  # fmt: skip
    dense = count(model, (3, 4, 4))
    assert dense.nonzero == dense.total()
    with torch.no_grad():
        model[0].weight.flatten()[:108] = 0  # half of 8 x 3 x 9
        model[1].bias.zero_()  # no weight
        model[3].weight.flatten()[:320] = 0  # a quarter of 10 x 128
    sparse = count(model, (3, 4, 4))
    assert sparse.total() == dense.total() == 216 * 16 + 72 * 16 + 1280
    assert sparse.nonzero == 108 * 16 + 72 * 16 + 960
