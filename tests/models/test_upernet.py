"""UPerNet's parts against torch's own operations, and the network on any size."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from convnext.models.registry import build_model
from convnext.models.segmentation.pyramid import AveragePool
from convnext.models.upernet import SEGMENTERS, UPerNet, UPerNetConfig, segmenter_config

SMALL = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}


def small(**changes):
    config = UPerNetConfig(**{"num_classes": 5, "head_dim": 16, "aux_dim": 8} | changes)
    body = build_model(
        config.backbone, in_chans=config.in_chans, features_only=True, num_classes=0, **SMALL
    )
    return UPerNet(config, body)


@pytest.mark.parametrize("parts", [1, 2, 3, 6])
@pytest.mark.parametrize("size", [(6, 6), (16, 16), (7, 13), (2, 5), (1, 1)])
def test_average_pool_is_adaptive_average_pooling(parts, size):
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    other = x.detach().clone().requires_grad_()
    found, expected = AveragePool(parts)(x), F.adaptive_avg_pool2d(other, parts)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    weight = torch.randn_like(found)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(x.grad, other.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_average_pool_in_half_precision(dtype):
    x = torch.randn(1, 4, 9, 12)
    found = AveragePool(3)(x.to(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), AveragePool(3)(x), rtol=0, atol=0.02)


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (70, 45), (33, 100), (127, 255)])
@torch.no_grad()
def test_any_size_gives_logits_of_its_own_size(size):
    model = small().eval()
    x = torch.randn(2, 3, *size)
    main, auxiliary = model.heads(x)
    assert auxiliary is None
    assert main.shape == (2, 5, size[0] // 4, size[1] // 4)
    logits = model(x)
    assert logits.shape == (2, 5, *size)
    torch.testing.assert_close(logits, F.interpolate(main, size, mode="bilinear"))


def test_too_small_images_are_refused():
    with pytest.raises(ValueError, match=r"31x64 pixels: both sides must be at least 32"):
        small().eval()(torch.randn(1, 3, 31, 64))


def test_heads_in_training_are_two_and_every_parameter_learns():
    model = small()
    main, auxiliary = model.heads(torch.randn(2, 3, 64, 64))
    assert main.shape == (2, 5, 16, 16)
    assert auxiliary.shape == (2, 5, 4, 4)
    (main.square().sum() + auxiliary.square().sum()).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_the_network_itself_gives_both_in_training_and_logits_of_the_image_else():
    model = small(dropout=0.0)
    x = torch.randn(2, 3, 64, 64)
    for found, expected in zip(model(x), model.heads(x), strict=True):
        torch.testing.assert_close(found, expected)
    assert model.eval()(x).shape == (2, 5, 64, 64)


def test_without_auxiliary_head():
    model = small(aux_dim=0)
    assert model.auxiliary_head is None
    assert model.heads(torch.randn(2, 3, 64, 64))[1] is None
    assert not [name for name in model.state_dict() if name.startswith("auxiliary")]


def test_grey_and_five_channels():
    for chans in (1, 5):
        assert small(in_chans=chans).eval()(torch.randn(1, chans, 40, 40)).shape == (1, 5, 40, 40)


@torch.no_grad()
def test_channels_last_and_views_give_the_same():
    model = small().eval()
    x = torch.randn(2, 3, 64, 80)
    expected = model(x)
    torch.testing.assert_close(
        model.to(memory_format=torch.channels_last)(
            x.contiguous(memory_format=torch.channels_last)
        ),
        expected,
        rtol=1e-4,
        atol=1e-5,
    )
    flipped = x.transpose(2, 3).contiguous().transpose(2, 3)
    torch.testing.assert_close(model(flipped), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_network_is_one_graph():
    model = small().eval()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(compiled(x), model(x))


def test_every_name_has_a_configuration_with_the_classes_of_ade20k():
    for name, config in SEGMENTERS.items():
        assert segmenter_config(name) == config
        assert config.num_classes == 150
    assert segmenter_config("upernet_timm:resnet18").backbone == "timm:resnet18"


@pytest.mark.parametrize("name", ["upernet_convnext_tinny", "upernet_", "convnext_tiny", ""])
def test_unknown_names_get_the_nearest(name):
    with pytest.raises(ValueError, match="unknown segmentation network"):
        segmenter_config(name)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("num_classes", 0), ("head_dim", 0), ("aux_dim", -1), ("dropout", 1.0)),
        *(("pool_scales", (0,)), ("pool_scales", (65,)), ("pool_scales", (1,) * 17)),
    ],
)
def test_values_out_of_range_are_named(field, value):
    with pytest.raises(ValueError, match=field):
        UPerNetConfig(**{field: value})


def test_a_backbone_with_other_strides_is_refused():
    body = nn.Identity()
    body.feature_info = build_model(
        "convnext_tiny", features_only=True, num_classes=0, out_indices=(1, 2, 3), **SMALL
    ).feature_info
    with pytest.raises(ValueError, match=r"strides \[8, 16, 32\]; here it needs \[4, 8, 16, 32\]"):
        UPerNet(UPerNetConfig(), body)
