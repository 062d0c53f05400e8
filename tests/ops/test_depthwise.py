"""Every path of the depthwise convolution against the library's own in double precision."""

import pytest
import torch
import torch.nn.functional as F

from convnext.ops import depthwise, dispatch
from convnext.ops.depthwise import _depthwise, depthwise_conv2d

KERNELS = [(3, 3), (7, 7), (13, 13), (15, 15), (31, 31), (21, 5), (5, 21), (5, 13)]


def inputs(shape, kernel, dtype, channels_last):
    x = torch.randn(shape, dtype=dtype)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    channels = shape[1]
    weight = torch.randn(channels, 1, *kernel, dtype=dtype)
    return [t.requires_grad_() for t in (x, weight, torch.randn(channels, dtype=dtype))]


def gradients(function, tensors, grad):
    out = function(*tensors)
    return out, torch.autograd.grad(out, tensors, grad)


def library(x, weight, bias):
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    return F.conv2d(x, weight, bias, padding=padding, groups=len(weight))


def assert_close(got, want, tolerance):
    assert got.isfinite().all()
    assert (got.double() - want).abs().max() <= tolerance * want.abs().max()


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 4e-3)],
)
@pytest.mark.parametrize("shape", [(2, 8, 14, 14), (1, 3, 1, 1), (3, 5, 9, 4), (2, 6, 17, 40)])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
def test_matches_exact_gradients(dtype, tolerance, shape, channels_last, kernel):
    tensors = inputs(shape, kernel, dtype, channels_last)
    exact = [t.detach().double().requires_grad_() for t in tensors]
    grad = torch.randn(shape, dtype=dtype)
    out, grads = gradients(depthwise_conv2d, tensors, grad)
    expected, exact_grads = gradients(library, exact, grad.double())
    for got, want in [(out, expected), *zip(grads, exact_grads, strict=True)]:
        assert got.dtype == dtype
        assert_close(got, want, tolerance)
    with torch.no_grad():
        assert_close(depthwise_conv2d(*tensors), expected, tolerance)


def arrangements():
    """Inputs in neither of the two memory formats: a slice, a permutation, a step."""
    whole = torch.randn(2, 8, 20, 18, dtype=torch.float64)
    return {
        "slice": whole[:, 2:6],
        "permuted": whole.transpose(2, 3)[:, ::2],
        "stepped": whole[:, :4, ::2, 1:],
    }


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("arrangement", arrangements())
def test_any_strides(kernel, arrangement):
    x = arrangements()[arrangement].requires_grad_()
    weight = torch.randn(4, 1, *kernel, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(2, x.shape[3], 4, x.shape[2], dtype=torch.float64).permute(0, 2, 3, 1)
    out, grads = gradients(depthwise_conv2d, (x, weight, bias), grad)
    expected, exact = gradients(library, (x, weight, bias), grad)
    for got, want in [(out, expected), *zip(grads, exact, strict=True)]:
        assert_close(got, want, 1e-12)


@pytest.mark.parametrize("narrow", [7, 9])
@pytest.mark.parametrize("kernel", [(7, 7), (11, 11), (13, 13), (5, 21)])
def test_other_processors(narrow, kernel, monkeypatch):
    """Those whose fast code for contiguous maps ends earlier."""
    monkeypatch.setattr(depthwise, "NARROW", narrow)
    tensors = inputs((2, 4, 12, 10), kernel, torch.float64, False)
    grad = torch.randn(2, 4, 12, 10, dtype=torch.float64)
    out, grads = gradients(depthwise_conv2d, tensors, grad)
    expected, exact = gradients(library, tensors, grad)
    for got, want in [(out, expected), *zip(grads, exact, strict=True)]:
        assert_close(got, want, 1e-12)


def test_any_number_of_images_at_a_time(monkeypatch):
    x, weight, _ = inputs((5, 4, 6, 6), (3, 3), torch.float64, True)
    grad = torch.randn_like(x)
    whole = depthwise.weight_grad(grad, x, weight)
    for images in (1, 2, 3):
        monkeypatch.setattr(depthwise, "CHUNK", images * 4 * 36)
        torch.testing.assert_close(depthwise.weight_grad(grad, x, weight), whole)


def test_no_image():
    x, weight, bias = inputs((0, 4, 6, 6), (7, 7), torch.float32, False)
    out, grads = gradients(depthwise_conv2d, (x, weight, bias), torch.randn(0, 4, 6, 6))
    assert out.shape == (0, 4, 6, 6)
    assert (grads[1] == 0).all()


@pytest.mark.parametrize(
    ("kernel", "size", "left"),
    [((51, 51), (14, 14), (27, 27)), ((51, 5), (14, 7), (27, 5)), ((7, 7), (7, 7), (7, 7)),
     ((13, 13), (7, 20), (13, 13)), ((9, 9), (1, 2), (1, 3))],
)  # fmt: skip
def test_what_a_map_can_reach(kernel, size, left):
    weight = torch.randn(3, 1, *kernel)
    cut = depthwise.reachable(weight, *size)
    assert cut.shape[2:] == left
    x = torch.randn(2, 3, *size)
    torch.testing.assert_close(library(x, cut, None), library(x, weight, None))


def test_taps_beyond_reach_get_no_gradient():
    x, weight, bias = inputs((1, 2, 4, 4), (15, 15), torch.float64, False)
    depthwise_conv2d(x, weight, bias).square().sum().backward()
    beyond = torch.ones(15, 15, dtype=torch.bool)
    beyond[4:11, 4:11] = False
    assert (weight.grad[:, 0][:, beyond] == 0).all()
    assert (weight.grad[:, 0][:, ~beyond] != 0).all()


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of opcheck's own clones
@pytest.mark.parametrize("kernel", [(7, 7), (13, 13), (5, 21)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_library_operator_is_well_formed(kernel, channels_last):
    x, weight, bias = inputs((2, 8, 10, 12), kernel, torch.float32, channels_last)
    torch.library.opcheck(_depthwise, (x, weight, bias))
    odd = torch.randn(2, 10, 8, 12).permute(0, 2, 1, 3).requires_grad_()
    torch.library.opcheck(_depthwise, (odd, weight, bias))


def test_second_derivative():
    tensors = inputs((1, 2, 5, 5), (3, 3), torch.float64, False)
    assert torch.autograd.gradgradcheck(depthwise_conv2d, tensors)


def test_autocast_computes_in_low_precision():
    tensors = inputs((1, 4, 8, 8), (7, 7), torch.float32, True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = depthwise_conv2d(*tensors)
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert all(t.grad.dtype == torch.float32 for t in tensors)


def test_weight_gradient_is_exact_also_inside_autocast():
    x, grad = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    weight = torch.randn(4, 1, 7, 7)
    want = depthwise.weight_grad(grad, x, weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(depthwise.weight_grad(grad, x, weight), want)
        double = depthwise_conv2d(x.double(), weight.double())
    assert double.dtype == torch.float64


@pytest.mark.parametrize("channels", [6, 16, 17])
def test_wide_kernels_of_few_channels_in_bf16_return(channels):
    """Where the library never does; see ONE_BLOCK."""
    x, weight, _ = inputs((1, channels, 17, 40), (15, 15), torch.float32, True)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        out = depthwise_conv2d(x, weight)
    assert out.dtype == torch.bfloat16
    assert_close(out, library(x.double(), weight.double(), None), 2e-2)


def test_reference_is_the_library_convolution():
    tensors = inputs((1, 4, 8, 8), (7, 7), torch.float32, False)
    with dispatch.use("reference"):
        out = depthwise_conv2d(*tensors)
    assert "Convolution" in out.grad_fn.name()
