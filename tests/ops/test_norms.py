"""Layer norm over channels and GRN: definition against the fast form, and by hand."""

import pytest
import torch

from convnext.layers.drop_path import DropPath
from convnext.ops.grn import grn, grn_reference
from convnext.ops.layer_norm import layer_norm_2d, layer_norm_2d_reference


@pytest.mark.parametrize("shape", [(2, 5, 3, 4), (1, 1, 1, 1), (3, 64, 7, 7)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_layer_norm(shape, channels_last):
    x = torch.randn(shape, dtype=torch.double)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    tensors = [x, torch.randn(shape[1]).double(), torch.randn(shape[1]).double()]
    for t in tensors:
        t.requires_grad_()
    fast, exact = (f(*tensors, 1e-6) for f in (layer_norm_2d, layer_norm_2d_reference))
    torch.testing.assert_close(fast, exact)
    grad = torch.randn_like(x)
    fast_grads = torch.autograd.grad(fast, tensors, grad)
    for a, b in zip(fast_grads, torch.autograd.grad(exact, tensors, grad), strict=True):
        torch.testing.assert_close(a, b)


def test_grn_by_hand():
    x = torch.tensor([[[[3.0, 1.0]], [[4.0, 0.0]]]])  # norms 5 and 1, mean 3
    got = grn(x, torch.tensor([2.0, -1.0]), torch.tensor([0.5, 0.25]))
    expected = torch.tensor([[[[2 * 5 + 0.5 + 3, -1 / 3 + 0.25 + 1]],
                              [[2 * 20 / 3 + 0.5 + 4, 0.25]]]])  # fmt: skip
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("shape", [(2, 7, 5, 12), (1, 1, 1, 4)])
def test_grn_gradients(shape):
    x = torch.randn(shape, dtype=torch.double, requires_grad=True)
    gamma, beta = (torch.randn(shape[-1]).double().requires_grad_() for _ in range(2))
    fast, exact = grn(x, gamma, beta), grn_reference(x, gamma, beta)
    torch.testing.assert_close(fast, exact)
    grad = torch.randn_like(x)
    for a, b in zip(
        torch.autograd.grad(fast, (x, gamma, beta), grad),
        torch.autograd.grad(exact, (x, gamma, beta), grad),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_grn_does_not_overflow(dtype):
    x = torch.full((1, 64, 64, 8), 300.0, dtype=dtype)  # the sum of squares is 3.7e8
    y = grn(x, torch.ones(8, dtype=dtype), torch.zeros(8, dtype=dtype))
    torch.testing.assert_close(y, torch.full_like(x, 600.0))


def test_grn_of_a_blank_map():
    x = torch.zeros(1, 4, 4, 8, requires_grad=True)
    gamma = torch.ones(8, requires_grad=True)
    grn(x, gamma, torch.zeros(8)).sum().backward()
    assert x.grad.isfinite().all()
    assert gamma.grad.isfinite().all()


def test_drop_path_keeps_the_mean_and_whole_samples():
    layer = DropPath(0.25).train()
    y = layer(torch.ones(4000, 2, 3))
    assert y.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert (y == y[:, :1, :1]).all()
    assert abs(y.mean() - 1) < 0.04
    assert torch.equal(layer.eval()(y), y)
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        DropPath(1.0)
