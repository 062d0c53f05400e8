"""The effective receptive field where it can be worked out by hand."""

import pytest
import torch
from torch import nn

from convnext.evaluate.receptive_field import (
    contributions,
    high_contribution_areas,
    scaled,
)
from convnext.models.registry import build_model


class OneConv(nn.Module):
    """A single convolution of ones with side k: the receptive field is that square."""

    def __init__(self, kernel):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, kernel, padding=kernel // 2, bias=False)
        nn.init.ones_(self.conv.weight)

    def forward_features(self, x):
        return self.conv(x)


def test_a_convolution_of_ones_sees_its_kernel_and_no_more():
    images = torch.rand(2, 3, 16, 16) + 0.1
    found = contributions(OneConv(5), [images[:1], images[1:]])
    expected = torch.zeros(16, 16, dtype=torch.float64)
    expected[6:11, 6:11] = 3 * 4  # input channels x output channels, as a mean over images
    torch.testing.assert_close(found, expected)


def test_negative_responses_and_gradients_do_not_count():
    net = OneConv(3)
    with torch.no_grad():
        net.conv.weight[:2] = -1.0  # two outputs are negative: relu takes them away
    found = contributions(net, [torch.rand(1, 3, 8, 8) + 0.1])
    assert found.max().item() == 3 * 2


def test_areas_by_hand():
    contribution = torch.zeros(21, 21, dtype=torch.float64)
    contribution[8:13, 8:13] = 9.0  # 25 equal pixels around the centre
    areas = high_contribution_areas(contribution)
    assert areas[0.2] == (3, 9 / 441)  # 9 of 25 pixels
    assert areas[0.3] == (3, 9 / 441)
    assert areas[0.5] == (5, 25 / 441)
    assert areas[0.99] == (5, 25 / 441)
    assert high_contribution_areas(torch.ones(4, 4, dtype=torch.float64))[0.99] is None
    values = scaled(torch.tensor([[0.0, 9.0], [99.0, 0.0]]))
    torch.testing.assert_close(values, torch.tensor([[0.0, 0.5], [1.0, 0.0]]))


def test_larger_kernels_see_more():
    def ratio(step):
        torch.manual_seed(0)
        model = build_model(f"roadmap_t_{step}", width=16, depths=(2, 2, 2, 2)).eval()
        found = contributions(model, [torch.randn(1, 3, 256, 256) for _ in range(3)])
        return high_contribution_areas(found)[0.5][1]

    assert ratio("kernel11") > 1.3 * ratio("move_up_depthwise")


def test_without_images():
    with pytest.raises(ValueError, match="no image"):
        contributions(OneConv(3), [])
