"""The faster training path of depthwise convolution against the library's own gradients."""

import pytest
import torch
import torch.nn.functional as F

from convnext.ops import dispatch
from convnext.ops.depthwise import _depthwise, depthwise_conv2d


def inputs(shape, kernel, dtype, channels_last):
    x = torch.randn(shape, dtype=dtype)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    channels = shape[1]
    weight = torch.randn(channels, 1, kernel, kernel, dtype=dtype)
    return [t.requires_grad_() for t in (x, weight, torch.randn(channels, dtype=dtype))]


def gradients(function, tensors, grad):
    out = function(*tensors)
    return out, torch.autograd.grad(out, tensors, grad)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
)
@pytest.mark.parametrize("shape", [(2, 8, 14, 14), (1, 3, 1, 1), (3, 5, 9, 4), (2, 40, 56, 56)])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("kernel", [3, 7])
def test_matches_exact_gradients(dtype, tolerance, shape, channels_last, kernel):
    tensors = inputs(shape, kernel, dtype, channels_last)
    exact = [t.detach().double().requires_grad_() for t in tensors]
    grad = torch.randn(shape, dtype=dtype)
    out, grads = gradients(depthwise_conv2d, tensors, grad)
    expected, exact_grads = gradients(
        lambda x, w, b: F.conv2d(x, w, b, padding=kernel // 2, groups=shape[1]),
        exact,
        grad.double(),
    )
    for got, want in [(out, expected), *zip(grads, exact_grads, strict=True)]:
        assert got.dtype == dtype
        assert (got.double() - want).abs().max() <= tolerance * want.abs().max()


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of opcheck's own clones
def test_library_operator_is_well_formed():
    torch.library.opcheck(_depthwise, inputs((2, 8, 10, 12), 7, torch.float32, True))


def test_second_derivative():
    tensors = inputs((1, 2, 5, 5), 3, torch.float64, False)
    assert torch.autograd.gradgradcheck(depthwise_conv2d, tensors)


def test_autocast_computes_in_low_precision():
    tensors = inputs((1, 4, 8, 8), 7, torch.float32, True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = depthwise_conv2d(*tensors)
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert all(t.grad.dtype == torch.float32 for t in tensors)


def test_reference_is_the_library_convolution():
    tensors = inputs((1, 4, 8, 8), 7, torch.float32, False)
    with dispatch.use("reference"):
        out = depthwise_conv2d(*tensors)
    assert "Convolution" in out.grad_fn.name()
