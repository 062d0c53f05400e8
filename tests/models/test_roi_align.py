"""RoIAlign as a sparse matrix against torchvision's kernel."""

import pytest
import torch
from torchvision.ops import roi_align

from convnext.models.detection import roi_align as module
from convnext.models.detection.roi_align import aligned_roi_align

SCALE = 0.25


def boxes(dtype):
    torch.manual_seed(0)
    rois = torch.rand(60, 5, dtype=dtype) * 260 - 40  # some of them outside
    rois[:, 3:] = rois[:, 1:3] + torch.rand(60, 2, dtype=dtype) * 150
    rois[:, 0] = torch.randint(0, 3, (60,))
    rois[0, 3:] = rois[0, 1:3]  # no width, no height
    rois[1, 1:] = torch.tensor([500.0, 500, 600, 600])  # beyond the map
    rois[2, 1:] = torch.tensor([-900.0, -900, 900, 900])  # around it
    rois[3, 1:] = torch.tensor([0.0, 0, 200, 160])  # all of it
    return rois


@pytest.mark.parametrize("size", [1, 7, 14])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_features_and_gradient(size, memory_format):
    rois = boxes(torch.float64)
    x = torch.randn(3, 6, 40, 50, dtype=torch.float64).to(memory_format=memory_format)
    results = []
    for pool in (
        lambda x: aligned_roi_align(x, rois, size, SCALE),
        lambda x: roi_align(x, rois, size, SCALE, 0, aligned=True),
    ):
        leaf = x.clone().requires_grad_()
        pooled = pool(leaf)
        weight = torch.sin(torch.arange(pooled.numel(), dtype=x.dtype)).view(pooled.shape)
        (pooled * weight).sum().backward()
        results.append((pooled.detach(), leaf.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_single_precision():
    rois = boxes(torch.float32)
    x = torch.randn(3, 6, 40, 50)
    expected = roi_align(x.double(), rois.double(), 7, SCALE, 0, aligned=True).float()
    ours = aligned_roi_align(x, rois, 7, SCALE)
    theirs = roi_align(x, rois, 7, SCALE, 0, aligned=True)
    assert ours.dtype == torch.float32
    assert (ours - expected).abs().max() < 2 * (theirs - expected).abs().max() + 1e-6


def test_no_boxes_still_reach_the_map():
    x = torch.randn(1, 2, 8, 8, requires_grad=True)
    pooled = aligned_roi_align(x, torch.zeros(0, 5), 7, SCALE)
    assert pooled.shape == (0, 2, 7, 7)
    pooled.sum().backward()
    assert x.grad is not None


def test_many_weights_are_left_to_the_kernel(monkeypatch):
    monkeypatch.setattr(module, "MOST_WEIGHTS", 10)
    rois = boxes(torch.float32)
    x = torch.randn(3, 6, 40, 50)
    theirs = roi_align(x, rois, 7, SCALE, 0, aligned=True)
    assert torch.equal(aligned_roi_align(x, rois, 7, SCALE), theirs)


def test_runs_are_equal_bit_for_bit():
    rois = boxes(torch.float32)
    x = torch.randn(3, 6, 40, 50)
    grads = []
    for _ in range(5):
        leaf = x.clone().requires_grad_()
        aligned_roi_align(leaf, rois, 7, SCALE).square().sum().backward()
        grads.append(leaf.grad)
    assert all(torch.equal(grads[0], grad) for grad in grads)
