"""SLaK and RepLKNet: what they compute, merged and not, and what they refuse."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convnext import merge
from convnext.layers.large_kernel import LargeKernelConv2d
from convnext.models.registry import build_model

SLAK = {"depths": (1, 1, 2, 1), "dims": (8, 12, 16, 20)}
NETWORKS = {
    "slak": ("slak_tiny", SLAK),
    "square": ("slak_tiny", {**SLAK, "decomposed": False, "kernel_size": (13, 11, 9, 7)}),
    "replknet": ("replknet_31b", {"depths": (1, 1, 2, 1), "dims": (8, 12, 16, 20)}),
    "wide": (
        "replknet_xl",
        {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 20), "kernel_size": 9},
    ),
}


def network(kind: str, **overrides: object) -> nn.Module:
    """A toy of the family in evaluation mode, its norms as after some training."""
    name, small = NETWORKS[kind]
    model = build_model(name, **{**small, "num_classes": 5, **overrides}).double()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
        if hasattr(module, "gamma"):
            nn.init.constant_(module.gamma, 0.5)
    return model.eval()


def naive(x, branches):
    """Sum over branches of a depthwise convolution and its norm, from the definition."""
    total = 0
    for conv, norm in branches:
        weight = conv.weight
        pad_h, pad_w = weight.shape[2] // 2, weight.shape[3] // 2
        padded = F.pad(x, (pad_w, pad_w, pad_h, pad_h))
        out = torch.zeros_like(x)
        for i in range(weight.shape[2]):
            for j in range(weight.shape[3]):
                window = padded[:, :, i : i + x.shape[2], j : j + x.shape[3]]
                out = out + window * weight[:, 0, i, j][:, None, None]
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        shift = norm.bias - norm.running_mean * scale
        total = total + out * scale[:, None, None] + shift[:, None, None]
    return total


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ((9, 3, True), {"tall": (9, 3), "wide": (3, 9), "small": (3, 3)}),
        ((9, 3, False), {"square": (9, 9), "small": (3, 3)}),
        ((9, 0, False), {"square": (9, 9)}),
        ((5, 7, True), {"square": (5, 5)}),
    ],
)
def test_branches(arguments, names):
    module = LargeKernelConv2d(4, *arguments).double().eval()
    branches = {name: module.get_submodule(name) for name in module.branches}
    assert {n: tuple(b.conv.kernel_size) for n, b in branches.items()} == names
    for branch in branches.values():
        nn.init.normal_(branch.norm.running_mean)
        nn.init.uniform_(branch.norm.running_var, 0.5, 2.0)
        nn.init.normal_(branch.norm.bias)
        assert branch.conv.bias is None
    x = torch.randn(2, 4, 12, 10, dtype=torch.float64)
    expected = naive(x, [(b.conv, b.norm) for b in branches.values()])
    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_merged_is_the_same_function(kind, dtype):
    model = network(kind)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    merged = merge(model)
    x = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    expected = model(x)
    got = merge(copy.deepcopy(model).to(dtype))(x.to(dtype))
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    assert (got.double() - expected).abs().max() <= tolerance * expected.abs().max()
    assert not merged.training
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())  # left alone
    norms = [m for m in merged.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert not norms


@pytest.mark.parametrize("kind", NETWORKS)
def test_synchronised_norms_merge_too(kind):
    model = network(kind)
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    expected = model(x)
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    torch.testing.assert_close(merge(synchronised)(x), expected)


@pytest.mark.parametrize("kind", NETWORKS)
def test_merging_twice_changes_nothing(kind):
    merged = merge(network(kind))
    assert merge(merged) is merged


@pytest.mark.parametrize("kind", NETWORKS)
def test_features_and_new_heads_merge(kind):
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    maps = network(kind, features_only=True, out_indices=(1, 3))
    for a, b in zip(merge(maps)(x), maps(x), strict=True):
        torch.testing.assert_close(a, b)
    model = network(kind)
    model.reset_classifier(3)
    model.double()
    torch.testing.assert_close(merge(model)(x), model(x))


def test_what_cannot_be_merged():
    plain = build_model("convnext_atto", depths=(1,) * 4, dims=(8,) * 4)
    assert merge(plain) is plain  # there is nothing to merge
    with pytest.raises(ValueError, match="head"):
        merge(network("replknet", num_classes=0))


def test_widths():
    with torch.device("meta"):
        tiny, base = build_model("slak_tiny"), build_model("slak_base")
        rounded = build_model("slak_tiny", width_multiple=8)
    assert tiny.feature_info.channels() == [124, 249, 499, 998]
    assert base.feature_info.channels() == [166, 332, 665, 1331]
    assert rounded.feature_info.channels() == [128, 248, 496, 1000]


def test_any_kernel_in_convnext_itself():
    for kernel in (3, (9, 7, 5, 3), 51):
        model = build_model("convnextv2_atto", kernel_size=kernel, dims=(8, 8, 8, 8)).eval()
        assert model(torch.randn(1, 3, 64, 64)).isfinite().all()
    strips = build_model("convnext_atto", kernel_size=31, small_kernel=3, decomposed=True)
    assert merge(strips)(torch.randn(1, 3, 64, 64)).shape == (1, 1000)


def test_initial_weights():
    slak, replk = build_model("slak_tiny", **SLAK), build_model("replknet_31b")
    weight = slak.stages[0].blocks[0].dwconv.tall.conv.weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.1)
    weight = replk.stages[0].blocks[0].large.dwconv.square.conv.weight
    bound = (31 * 31) ** -0.5  # PyTorch's own draw: uniform, 1 / sqrt(taps)
    assert weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)


def test_layer_ids_of_replknet():
    with torch.device("meta"):
        ids, num_layers = build_model("replknet_31b").layer_ids("group")
    assert num_layers == 12
    third = [ids[f"stages.2.blocks.{i}.large.pwconv1.conv.weight"] for i in range(18)]
    assert third == [3 + i // 2 for i in range(18)]
    assert ids["stem.layers.0.conv.weight"] == 0
    assert ids["stages.3.blocks.1.ffn.pwconv2.conv.weight"] == 12
    assert ids["head.weight"] == ids["norm.bias"] == 13


@pytest.mark.parametrize("name", ["replknet_31b", "slak_tiny", "roadmap_b_resnet"])
def test_no_block_of_a_deep_network_learns_faster_than_the_head(name):
    deeper = {} if name.startswith("roadmap") else {"depths": (2, 2, 40, 2)}
    with torch.device("meta"):
        ids, num_layers = build_model(name, **deeper).layer_ids("group")
    third = [layer for parameter, layer in ids.items() if parameter.startswith("stages.2.blocks.")]
    assert third == sorted(third)
    assert (third[0], third[-1], num_layers) == (3, 11, 12)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("slak_tiny", {"kernel_size": 50}, "50 must be odd"),
        ("slak_tiny", {"kernel_size": (51, 49, 47)}, "one entry for each of 4"),
        ("slak_tiny", {"small_kernel": 4}, "small_kernel 4"),
        ("slak_tiny", {"small_kernel": 0}, "need a small_kernel"),
        ("slak_tiny", {"width_factor": 0.0}, "width_factor 0.0"),
        ("slak_tiny", {"width_factor": float("inf")}, "width_factor inf"),
        ("slak_tiny", {"width_factor": float("nan")}, "width_factor nan"),
        ("slak_tiny", {"kernel_size": 7.0}, "kernel_size is 7.0; expected int"),
        ("convnext_atto", {"merged": True}, "has branches"),
        ("convnext_atto", {"kernel_size": 0}, "0 must be odd"),
        ("replknet_31b", {"kernel_size": (31, 29, 27, 12)}, "12 must be odd"),
        ("replknet_31b", {"expansion": 0.0}, "expansion 0.0"),
        ("replknet_31b", {"expansion": float("inf")}, "expansion inf"),
        (
            "replknet_31b",
            {"kernel_size": (31, 29, 27, 13.0)},
            r"kernel_size is \(31, 29",
        ),
        ("replknet_31b", {"dims": (8, 8)}, "one entry for each stage"),
    ],
)
def test_bad_arguments(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        build_model(name, **arguments)
