"""Published sizes: parameters to the unit, multiply-accumulates to the printed digit."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from convnext.models.registry import build_model, list_models, model_config

PARAMS = {
    "convnext_atto": 3_695_520,
    "convnext_femto": 5_217_784,
    "convnext_pico": 9_045_672,
    "convnext_nano": 15_593_560,
    "convnext_tiny": 28_589_128,
    "convnext_small": 50_223_688,
    "convnext_base": 88_591_464,
    "convnext_large": 197_767_336,
    "convnext_xlarge": 350_196_968,
    "convnextv2_atto": 3_708_400,
    "convnextv2_femto": 5_233_240,
    "convnextv2_pico": 9_066_280,
    "convnextv2_nano": 15_623_800,
    "convnextv2_tiny": 28_635_496,
    "convnextv2_small": 50_318_440,
    "convnextv2_base": 88_717_800,
    "convnextv2_large": 197_956_840,
    "convnextv2_huge": 660_289_640,
    "convnext_isotropic_small": 22_308_712,
    "convnext_isotropic_base": 87_083_752,
    "convnext_isotropic_large": 305_942_504,
}
PARAMS_21841 = {
    "convnext_tiny": 44_615_857,
    "convnext_small": 66_250_417,
    "convnext_base": 109_953_489,
    "convnext_large": 229_799_953,
    "convnext_xlarge": 392_900_177,
}
# 1e9 multiply-accumulates by input size, as many digits as are published or recomputed.
GMACS = {
    "convnext_tiny": {224: "4.4555", 256: "5.82", 288: "7.36", 384: "13.0923", 512: "23.27"},
    "convnext_small": {224: "8.6837", 256: "11.34", 288: "14.35", 384: "25.5180", 512: "45.36"},
    "convnext_base": {224: "15.3547", 256: "20.05", 288: "25.38", 384: "45.1221", 512: "80.22"},
    "convnext_large": {224: "34.3614", 256: "44.88", 288: "56.80", 384: "100.9776", 512: "179.51"},
    "convnext_xlarge": {224: "60.9210", 256: "79.57", 288: "100.70", 384: "179.0293"},
    "convnextv2_atto": {224: "0.547", 384: "1.608", 512: "2.858"},
    "convnextv2_femto": {224: "0.780", 384: "2.290", 512: "4.072"},
    "convnextv2_pico": {224: "1.367", 384: "4.017", 512: "7.140"},
    "convnextv2_nano": {224: "2.446", 384: "7.186", 512: "12.774"},
    "convnextv2_tiny": {224: "4.456", 384: "13.092", 512: "23.275"},
    "convnextv2_base": {224: "15.355", 384: "45.122", 512: "80.216"},
    "convnextv2_large": {224: "34.361", 384: "100.978", 512: "179.515"},
    "convnextv2_huge": {224: "114.922", 384: "337.725", 512: "600.397"},
    "convnext_isotropic_small": {224: "4.286"},
    "convnext_isotropic_base": {224: "16.896"},
    "convnext_isotropic_large": {224: "59.699"},
}
TENSORS = {"convnext_tiny": 182, "convnext_small": 344, "convnext_xlarge": 344,
           "convnextv2_atto": 140}  # fmt: skip


def num_params(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def gmacs(model: torch.nn.Module, size: int) -> float:
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, size, size, device="meta"))
    return counter.get_total_flops() / 2e9


def closed_form_gmacs(name: str, size: int) -> float:
    """The paper's cost by hand: stem, blocks, downsampling, head."""
    config = model_config(name)
    height = [size // config.stem_stride // 2**i for i in range(len(config.dims))]
    total = 3 * config.stem_stride**2 * config.dims[0] * height[0] ** 2
    for i, (d, c, h) in enumerate(zip(config.depths, config.dims, height, strict=True)):
        total += d * (49 * c + 8 * c * c) * h * h
        total += 4 * config.dims[i - 1] * c * h * h if i else 0
    return (total + config.dims[-1] * 1000) / 1e9


def test_every_name_has_a_golden_count():
    assert set(list_models("convnext*")) == set(PARAMS)


@pytest.mark.parametrize("name", list_models("convnext*"))
def test_params_and_macs(name):
    with torch.device("meta"):
        model = build_model(name)
    assert num_params(model) == PARAMS[name]
    assert gmacs(model, 224) == pytest.approx(closed_form_gmacs(name, 224), rel=1e-12)
    for size, printed in GMACS.get(name, {}).items():
        digits = len(printed.split(".")[1])
        # The published figures are partly rounded, partly cut: at most one unit of the last digit.
        assert abs(gmacs(model, size) - float(printed)) < 10.0**-digits, (name, size)
    if name in TENSORS:
        assert len(model.state_dict()) == TENSORS[name]


@pytest.mark.parametrize("name", PARAMS_21841)
def test_in22k_head(name):
    with torch.device("meta"):
        model = build_model(name, num_classes=21841)
    assert num_params(model) == PARAMS_21841[name]


def test_isotropic_large_without_layer_scale():
    with torch.device("meta"):
        model = build_model("convnext_isotropic_large", layer_scale_init_value=0)
    assert num_params(model) == 305_905_640
