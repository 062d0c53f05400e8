"""Published sizes of SLaK and RepLKNet, as trained and as merged."""

import pytest
import torch
from torch import nn

from convnext import merge
from convnext.evaluate.counting import count
from convnext.layers.large_kernel import LargeKernelConv2d
from convnext.models.registry import build_model, list_models

# parameters, then 1e9 multiply-accumulates at 224 px
TRAINED = {
    "slak_tiny": (50_703_838, "8.705"),
    "slak_small": (91_131_820, "16.604"),
    "slak_base": (157_950_792, "28.509"),
    "replknet_31b": (79_864_168, "15.43"),
    "replknet_31l": (172_671_016, None),
    "replknet_xl": (335_435_752, None),
}
# RepLKNet with its large kernels merged and all other norms left, as its tables count it
KERNELS_MERGED = {
    "replknet_31b": 79_527_272,
    "replknet_31l": 172_165_672,
    "replknet_xl": 335_399_656,
}
MERGED_GMACS = {
    "replknet_31b": {224: "15.354", 384: "45.119"},
    "replknet_31l": {224: "32.66", 384: "95.989"},
    "replknet_xl": {224: "63.08", 320: "128.730"},
}
# Published for SLaK with 40 % of the weights zero: millions of parameters.
SPARSE = {"slak_tiny": 30, "slak_small": 55, "slak_base": 95}


def on_meta(name: str, **overrides: object) -> nn.Module:
    with torch.device("meta"):
        return build_model(name, **overrides)


def num_params(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def gmacs(model: nn.Module, size: int) -> float:
    return count(model, (3, size, size)).total() / 1e9


def same_digits(value: float, printed: str) -> bool:
    """At most one unit of the last digit off: the figures are partly rounded, partly cut."""
    return abs(value - float(printed)) < 10.0 ** -len(printed.split(".")[1])


def test_every_name_has_a_golden_count():
    assert {*list_models("slak*"), *list_models("replknet*")} == set(TRAINED)


@pytest.mark.parametrize("name", TRAINED)
def test_as_trained(name):
    model = on_meta(name)
    params, printed = TRAINED[name]
    assert num_params(model) == params
    if printed:
        assert same_digits(gmacs(model, 224), printed)


@pytest.mark.parametrize("name", KERNELS_MERGED)
def test_replknet_merged(name):
    model = on_meta(name)
    large = [m for m in model.modules() if isinstance(m, LargeKernelConv2d)]
    before = sum(num_params(m) for m in large)
    after = sum(m.get_submodule(m.branches[0]).conv.weight.numel() + len(m.square.conv.weight)
                for m in large)  # fmt: skip
    assert num_params(model) - before + after == KERNELS_MERGED[name]
    merged = merge(model)
    assert not [m for m in merged.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for size, printed in MERGED_GMACS[name].items():
        assert same_digits(gmacs(merged, size), printed), size


@pytest.mark.parametrize("name", SPARSE)
def test_slak_at_forty_percent_sparsity(name):
    model = on_meta(name)
    weights = sum(p.numel() for p in model.parameters() if p.ndim > 1)
    assert round(0.6 * weights / 1e6) == SPARSE[name]


@pytest.mark.parametrize(("name", "taps"), [("slak_tiny", (51 * 5, 5 * 51))])
def test_slak_merged_keeps_two_strips(name, taps):
    merged = merge(on_meta(name))
    block = merged.stages[0].blocks[0].dwconv
    assert [m.weight[0].numel() for m in block.modules() if isinstance(m, nn.Conv2d)] == list(taps)
    assert gmacs(merged, 224) < gmacs(on_meta(name), 224)
