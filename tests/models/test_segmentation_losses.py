"""Losses that are differentiated image by image against the plain formulas."""

import pytest
import torch
from torch.nn import functional as F

from convnext.models.segmentation.losses import IGNORE, cross_entropy, dice, summed_loss


@pytest.fixture
def logits():
    return torch.randn(3, 4, 6, 5, dtype=torch.float64, requires_grad=True)


@pytest.fixture
def labels():
    return torch.randint(-1, 4, (3, 23, 19))


def large(logits):
    return F.interpolate(logits, (23, 19), mode="bilinear")


def agree(found, expected, logits):
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(2 * found, logits)
    (wanted,) = torch.autograd.grad(2 * expected, logits)
    torch.testing.assert_close(gradient, wanted)


@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy(logits, labels, weighted):
    weight = torch.rand(4, dtype=torch.float64) if weighted else None
    found = summed_loss(logits, labels, lambda x, y: cross_entropy(x, y, weight))
    expected = F.cross_entropy(large(logits), labels, weight, ignore_index=IGNORE, reduction="sum")
    agree(found, expected, logits)


def test_dice(logits, labels):
    p = large(logits).softmax(1)
    expected = 0
    for probabilities, truth in zip(p, labels, strict=True):
        counts, scores = truth != IGNORE, []
        for k in range(4):
            t = (truth == k)[counts].double()
            q = probabilities[k][counts]
            if t.any():
                scores.append((2 * (q * t).sum() + 1) / (q.sum() + t.sum() + 1))
        expected = expected + 1 - torch.stack(scores).mean()
    agree(summed_loss(logits, labels, dice), expected, logits)


@pytest.mark.parametrize("loss", [cross_entropy, dice])
def test_nothing_that_counts_is_no_loss(logits, labels, loss):
    total = summed_loss(logits, torch.full_like(labels, IGNORE), loss)
    assert total == 0
    (gradient,) = torch.autograd.grad(total, logits)
    assert not gradient.any()


def test_without_gradient(logits, labels):
    with torch.no_grad():
        found = summed_loss(logits, labels, cross_entropy)
    torch.testing.assert_close(found, summed_loss(logits, labels, cross_entropy).detach())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_full(labels, dtype):
    logits = torch.randn(3, 4, 6, 5).to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = summed_loss(logits, labels, cross_entropy)
    expected = summed_loss(logits.detach().float(), labels, cross_entropy)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found, logits)
    assert gradient.dtype == dtype
