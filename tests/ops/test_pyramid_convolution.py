"""Channels summed before enlarging: the same as the convolution of the joined maps."""

import pytest
import torch

from convnext.models.registry import build_model
from convnext.models.upernet import UPerNet, UPerNetConfig
from convnext.ops.dispatch import use
from convnext.ops.pyramid_convolution import (
    pyramid_conv2d,
    pyramid_conv2d_reference,
    pyramid_conv2d_small_first,
)

SIZES = [
    ((8, 8), (4, 4), (2, 2), (1, 1)),
    ((25, 17), (13, 9), (7, 5)),  # halves rounded up
    ((5, 7), (1, 2), (2, 3), (3, 1)),  # not sorted, and no whole ratios
    ((4, 6), (4, 6)),
    ((3, 2), (5, 9)),  # larger than the first
    ((1, 1), (1, 1)),
    ((6, 5),),
]
PYRAMID = ((64, 48), (32, 24), (16, 12), (8, 6))
POOLED = ((16, 16), (1, 1), (2, 2), (3, 3), (6, 6))


def case(sizes, kernel=3, dtype=torch.float64, batch=2):
    torch.manual_seed(0)
    channels = range(3, 3 + len(sizes))
    maps = [torch.randn(batch, c, *s, dtype=dtype) for c, s in zip(channels, sizes, strict=True)]
    weight = torch.randn(5, sum(channels), kernel, kernel, dtype=dtype)
    return maps, weight


def outcome(function, maps, weight):
    """The result and every gradient."""
    leaves = [t.detach().requires_grad_() for t in (*maps, weight)]
    y = function(leaves[:-1], leaves[-1])
    torch.manual_seed(1)
    return [y, *torch.autograd.grad(y, leaves, torch.randn(y.shape).to(y.dtype))]


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("sizes", SIZES)
def test_values_and_gradients(sizes, kernel):
    maps, weight = case(sizes, kernel)
    found = outcome(pyramid_conv2d_small_first, maps, weight)
    for a, b in zip(found, outcome(pyramid_conv2d_reference, maps, weight), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("view", ["channels_last", "transposed", "every_other"])
def test_layouts(view):
    maps, weight = case(SIZES[1])
    expected = outcome(pyramid_conv2d_reference, maps, weight)
    if view == "channels_last":
        maps = [x.contiguous(memory_format=torch.channels_last) for x in maps]
        weight = weight.contiguous(memory_format=torch.channels_last)
    elif view == "transposed":
        maps = [x.transpose(2, 3).contiguous().transpose(2, 3) for x in maps]
    else:
        maps = [x.repeat_interleave(2, 3)[..., ::2] for x in maps]
    found = outcome(pyramid_conv2d_small_first, maps, weight)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert found[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sizes", [PYRAMID, POOLED, ((12, 20), (5, 7))])
def test_errors_are_those_of_the_definition(sizes, dtype):
    torch.manual_seed(0)
    maps = [torch.randn(2, 32, *size, dtype=torch.float64) for size in sizes]
    weight = torch.randn(16, 32 * len(sizes), 3, 3, dtype=torch.float64)
    exact = pyramid_conv2d_reference(maps, weight)
    low = [x.to(dtype) for x in maps], weight.to(dtype)

    def error(function):
        y = function(*low)
        assert y.dtype == dtype
        return (y.double() - exact).square().mean().sqrt()

    assert error(pyramid_conv2d_small_first) < 1.5 * error(pyramid_conv2d_reference)


def test_the_order_is_that_of_fewer_multiplications(monkeypatch):
    monkeypatch.setattr(
        "convnext.ops.pyramid_convolution.pyramid_conv2d_reference", lambda *_: "defined"
    )
    for channels, defined in ((8, True), (128, False)):
        maps = [torch.zeros(1, channels, *size) for size in PYRAMID]
        weight = torch.zeros(4, 4 * channels, 3, 3)
        assert (pyramid_conv2d(maps, weight) == "defined") is defined
        on_meta = pyramid_conv2d([x.to("meta") for x in maps], weight.to("meta"))
        assert on_meta == "defined"  # as on any device but CPUs


def test_autocast():
    maps, weight = case(SIZES[1], dtype=torch.float32)
    expected = outcome(pyramid_conv2d_reference, maps, weight)
    with torch.autocast("cpu", torch.bfloat16):
        found = outcome(pyramid_conv2d_small_first, maps, weight)
    assert found[0].dtype == torch.bfloat16
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.float(), b, rtol=0.05, atol=0.05 * b.abs().max().item())


def test_the_network_gives_the_same_by_either_way():
    torch.manual_seed(0)
    body = build_model(
        "convnext_tiny", features_only=True, num_classes=0, depths=(1, 1, 1, 1), dims=(8, 8, 8, 8)
    )
    model = UPerNet(UPerNetConfig(num_classes=3, head_dim=64, aux_dim=0), body).double().eval()
    x = torch.randn(1, 3, 70, 100, dtype=torch.float64)
    with torch.no_grad():
        found = model(x)
        with use("reference"):
            torch.testing.assert_close(found, model(x), rtol=1e-10, atol=1e-12)
