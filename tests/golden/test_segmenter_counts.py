"""Parameters and operations of the published segmentation networks, to the last digit."""

import pytest
import torch
from torch import nn

from convnext.evaluate.segmenter_cost import IMAGE_SIZE, LARGE_IMAGE_SIZE, segmenter_cost
from convnext.models.upernet import UPerNet, UPerNetConfig, segmenter_config
from convnext.published.segmentation import SEGMENTATION_ROWS, segmentation_rows

# Backbone and side of the crops: parameters, 1e9 operations, and those of another count, which
# adds two for each element of a batch norm.
TABLE = {
    ("convnext_tiny", 512): (60_242_636, "938.677", "938.92"),
    ("convnext_small", 512): (81_877_196, "1027.066", "1027.31"),
    ("convnext_base", 512): (122_102_956, "1169.594", "1169.84"),
    ("convnext_base", 640): (122_102_956, "1827.476", "1827.86"),
    ("convnext_large", 640): (234_994_796, "2457.838", "2458.22"),
    ("convnext_xlarge", 640): (391_140_396, "3334.825", "3335.21"),
    ("convnextv2_base", 512): (122_229_292, "1169.594", "1169.84"),
    ("convnextv2_large", 512): (235_184_300, "1573.031", "1573.28"),
    ("convnextv2_huge", 512): (706_807_020, "3272.172", "3272.42"),
    ("convnextv2_huge", 640): (706_807_020, "5112.728", "5113.11"),
}


def build(backbone):
    with torch.device("meta"):
        return UPerNet(segmenter_config(f"upernet_{backbone}"))


@pytest.mark.parametrize(("backbone", "crop"), TABLE)
def test_published_counts(backbone, crop):
    model = build(backbone)
    cost = segmenter_cost(model, (crop, 4 * crop))
    params, exact, other = TABLE[backbone, crop]
    assert cost.params == params
    assert f"{cost.flops / 1e9:.3f}" == exact
    with_norms = (cost.flops + 2 * batch_norm_elements(model, crop)) / 1e9
    assert with_norms == pytest.approx(float(other), abs=0.01)


def batch_norm_elements(model, crop):
    found = []
    handles = [
        module.register_forward_hook(lambda module, x, y: found.append(y.numel()))
        for module in model.modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    model.eval()(torch.empty(1, 3, crop, 4 * crop, device="meta"))
    for handle in handles:
        handle.remove()
    return sum(found)


def test_every_line_of_the_papers_is_met():
    rows = {(row.segmenter.removeprefix("upernet_"), row.crop): row for row in SEGMENTATION_ROWS}
    assert rows.keys() == TABLE.keys()
    for cell, row in rows.items():
        params, exact, _ = TABLE[cell]
        assert round(params / 1e6) == row.params
        # 1827.476 is printed as 1828, through 1827.5
        assert int(round(float(exact), 1) + 0.5) == row.gflops
        assert row.size == {512: IMAGE_SIZE, 640: LARGE_IMAGE_SIZE}[row.crop]
    assert len(segmentation_rows("table4")) == 6
    assert [r.data for r in segmentation_rows("v2table7", "upernet_convnextv2_huge")] == [
        "IN-1K",
        "IN-22K",
    ]


@pytest.mark.parametrize(
    ("backbone", "head"),
    [("convnext_tiny", "845.525"), ("convnext_small", "845.525"), ("convnext_base", "848.620")],
)
def test_counts_by_part(backbone, head):
    model = build(backbone)
    parts = segmenter_cost(model).parts
    assert parts.keys() == {"backbone", "decode_head"}
    assert f"{parts['decode_head'] / 1e9:.3f}" == head
    if backbone == "convnext_tiny":
        sizes = [
            sum(p.numel() for p in m.parameters())
            for m in (model.decode_head, model.auxiliary_head)
        ]
        assert [f"{n / 1e6:.3f}" for n in sizes] == ["31.497", "0.924"]


def test_the_auxiliary_head_has_parameters_but_does_not_run():
    with torch.device("meta"):
        bare = UPerNet(UPerNetConfig(backbone="convnext_tiny", aux_dim=0))
    whole = build("convnext_tiny")
    assert segmenter_cost(bare).flops == segmenter_cost(whole).flops
    extra = sum(p.numel() for p in whole.auxiliary_head.parameters())
    assert segmenter_cost(whole).params - segmenter_cost(bare).params == extra


def test_pooling_counts_what_it_reads():
    """Of 64 x 64 pixels the deepest map has 2 x 2 places; each of two poolings reads it once."""
    narrow = {"backbone": "convnext_atto", "num_classes": 3, "head_dim": 8, "aux_dim": 0}
    counts = []
    for scales in ((1,), (1, 1)):
        model = UPerNet(UPerNetConfig(**narrow, pool_scales=scales))
        counts.append(segmenter_cost(model, (64, 64)).parts["decode_head"])
    channels = 320
    pooled = channels * 2 * 2
    convolved = 8 * channels + 8  # at one place, and its ReLU
    bottleneck = 8 * 8 * 9 * 2 * 2  # of eight channels more
    assert counts[1] - counts[0] == pooled + convolved + bottleneck


def test_a_network_is_left_as_it_was():
    model = UPerNet(UPerNetConfig(backbone="convnext_atto", head_dim=8, aux_dim=8)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cost = segmenter_cost(model, (64, 96))
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert cost == segmenter_cost(model.to("meta"), (64, 96))
    assert cost.size == (64, 96)
    with pytest.raises(ValueError, match="image size 16x64: both sides must be at least 32"):
        segmenter_cost(model, (16, 64))
