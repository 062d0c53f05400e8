"""Parameters and operations of the published detectors, to the last digit."""

import pytest
import torch
from torch import nn

from convnext.evaluate.detector_cost import detector_cost
from convnext.models.mask_rcnn import MaskRCNN, detector_config

# Detector: parameters, 1e9 operations to three digits, and as the papers print them.
TABLE = {
    "mask_rcnn_convnext_tiny": (48_095_376, "262.114", 262),
    "cascade_mask_rcnn_convnext_tiny": (85_930_578, "740.690", 741),
    "cascade_mask_rcnn_convnext_small": (107_565_138, "827.007", 827),
    "cascade_mask_rcnn_convnext_base": (145_800_242, "964.156", 964),
    "cascade_mask_rcnn_convnext_large": (254_710_770, "1354.058", 1354),
    "cascade_mask_rcnn_convnext_xlarge": (406_875_058, "1898.102", 1898),
    "mask_rcnn_convnextv2_base": (108_091_376, "485.580", 486),
    "mask_rcnn_convnextv2_large": (217_065_072, "875.483", 875),
    "mask_rcnn_convnextv2_huge": (678_734_512, "2524.605", 2525),
}
# 1e9 operations by part; necks of T and S are alike.
BACKBONES = {"tiny": "90.969", "small": "177.286", "base": "313.452"}
BACKBONES |= {"large": "701.388", "xlarge": "1243.466"}
NECKS = {"tiny": "53.128", "small": "53.128", "base": "54.111", "large": "56.077"}
NECKS |= {"xlarge": "58.043"}


def build(name):
    with torch.device("meta"):
        return MaskRCNN(detector_config(name))


@pytest.mark.parametrize("name", TABLE)
def test_published_counts(name):
    cost = detector_cost(build(name))
    params, exact, printed = TABLE[name]
    assert cost.params == params
    assert f"{cost.flops / 1e9:.3f}" == exact
    assert round(cost.flops / 1e9) == printed


def test_v2_without_the_biases_of_the_transposed_convolutions():
    """Another count of V2 leaves those out: 100 masks of 28 x 28, 256 channels."""
    expected = {"base": "485.56", "large": "875.46", "huge": "2524.59"}
    for size, printed in expected.items():
        flops = detector_cost(build(f"mask_rcnn_convnextv2_{size}")).flops
        assert f"{(flops - 100 * 28 * 28 * 256) / 1e9:.2f}" == printed


@pytest.mark.parametrize("size", BACKBONES)
def test_counts_by_part(size):
    parts = detector_cost(build(f"cascade_mask_rcnn_convnext_{size}")).parts
    giga = {name: f"{count / 1e9:.3f}" for name, count in parts.items()}
    assert giga["backbone"] == BACKBONES[size]
    assert giga["neck"] == NECKS[size]
    assert giga["rpn_head"] == "50.639"
    heads = parts["roi_head.bbox_head"] + parts["roi_head.mask_head"]
    assert f"{heads / 1e9:.3f}" == "545.954"


def test_heads_of_mask_rcnn_and_without_masks():
    cost = detector_cost(build("mask_rcnn_convnext_tiny"))
    heads = cost.parts["roi_head.bbox_head"] + cost.parts["roi_head.mask_head"]
    assert f"{heads / 1e9:.3f}" == "67.379"
    with torch.device("meta"):
        boxes_only = MaskRCNN(_small(masks=False))
    assert "roi_head.mask_head" not in detector_cost(boxes_only, (64, 96)).parts


def test_a_detector_is_left_as_it_was():
    model = MaskRCNN(_small()).train()
    model.backbone.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cost = detector_cost(model, (64, 96))
    assert model.training
    assert not model.backbone.training
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert cost == detector_cost(model.to("meta"), (64, 96))
    assert cost.size == (64, 96)


def test_every_rule_by_hand():
    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            self.config = _small()
            self.backbone = nn.Sequential(
                nn.Conv2d(3, 8, 3, 2, 1, groups=1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
            )
            self.neck = nn.ConvTranspose2d(8, 4, 2, 2)
            self.rpn_head = nn.Linear(2, 5)
            self.roi_head = nn.Module()
            self.roi_head.box_heads, self.roi_head.mask_heads = [], []

        def dense(self, images):
            return self.rpn_head(self.neck(self.backbone(images)))

    parts = detector_cost(Tiny(), (32, 64)).parts
    assert parts["backbone"] == 16 * 32 * 8 * (27 + 1 + 1)
    assert parts["neck"] == 8 * 4 * 4 + 4 * 4
    assert parts["rpn_head"] == 4 * 2 * 5 * 2


def test_sizes_that_cannot_be():
    with pytest.raises(ValueError, match="image size 800x1333: both sides must be multiples of 32"):
        detector_cost(MaskRCNN(_small()), (800, 1333))


def _small(**changes):
    small = {"backbone": "convnext_atto", "num_classes": 3, "fpn_dim": 8, "fc_dim": 16}
    return type(detector_config("mask_rcnn_convnext_tiny"))(**{**small, **changes})
