"""Starting segmentation networks from classifiers, encoders, detectors; and detectors from them."""

import pytest
import torch
from small_detectors import BODIES, SHAPE, detector, equal, perturbed
from small_segmenters import WIDTHS, segmenter

from convnext.models.registry import build_model
from convnext.weights import load_backbone_weights, save_pretrained
from convnext.weights.detection import save_detector
from convnext.weights.layouts.table import from_convnext
from convnext.weights.segmentation import create_segmenter, save_segmenter
from convnext.weights.segmentation.layout import SEGMENTER_LAYOUTS, from_segmenter


def classifier(name="convnext_tiny", **kwargs):
    return perturbed(build_model(name, **{**BODIES[name], "num_classes": 5, **kwargs}), seed=2)


def above(model):
    """What a start from a backbone leaves alone, as it is now."""
    names = model.state_dict()
    return {k: t.clone() for k, t in names.items() if not k.startswith("backbone.body.")}


def without_head(network):
    return {
        name: tensor
        for name, tensor in network.state_dict().items()
        if not name.startswith(("norm.", "head."))
    }


@pytest.mark.parametrize("name", BODIES)
def test_a_classifier(name, tmp_path):
    network, model = classifier(name), segmenter(name)
    before = above(model)
    save_pretrained(network, tmp_path)
    report = load_backbone_weights(model, tmp_path)
    assert equal(model.backbone.body.state_dict(), without_head(network))
    assert equal(above(model), before)
    assert report.missing == report.unexpected == []


def test_an_encoder_of_masked_pre_training(tmp_path):
    network, model = classifier("convnextv2_tiny"), segmenter("convnextv2_tiny")
    sparse = from_convnext(without_head(network), "fcmae")
    torch.save({"model": {**sparse, "mask_token": torch.ones(1)}}, tmp_path / "a.pth")
    report = load_backbone_weights(model, tmp_path / "a.pth")
    assert equal(model.backbone.body.state_dict(), without_head(network))
    assert report.dropped == ["mask_token"]


def moved(model):
    """The same network with other weights."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    return model


@pytest.mark.parametrize("layout", SEGMENTER_LAYOUTS)
def test_another_segmentation_network_gives_its_norms_too(layout, tmp_path):
    source, model = segmenter(num_classes=9, head_dim=8), moved(segmenter())
    head = model.decode_head.conv_seg.weight.clone()
    state = from_segmenter(source.state_dict(), layout, source.backbone.body.config)
    torch.save(state, tmp_path / "a.pth")
    report = load_backbone_weights(model, tmp_path / "a.pth")
    assert equal(model.backbone.state_dict(), source.backbone.state_dict())
    assert torch.equal(model.decode_head.conv_seg.weight, head)
    assert "neck and heads left out" in str(report)
    assert "norms of the maps come from the file" in str(report)


def test_a_detector_starts_a_segmentation_network_and_the_reverse(tmp_path):
    there = detector(cascade=True)
    save_detector(there, tmp_path / "detector")
    model = moved(segmenter())
    load_backbone_weights(model, tmp_path / "detector")
    assert equal(model.backbone.state_dict(), there.backbone.state_dict())
    save_segmenter(moved(model), tmp_path / "segmenter")
    load_backbone_weights(there, tmp_path / "segmenter")
    assert equal(model.backbone.state_dict(), there.backbone.state_dict())


def test_create_with_weights_of_the_backbone(tmp_path):
    network = classifier()
    save_pretrained(network, tmp_path)
    model = create_segmenter(
        "upernet_convnext_tiny", backbone_weights=tmp_path, body=SHAPE, in_chans=1, **WIDTHS
    )
    expected = network.stem.conv.weight.sum(1, keepdim=True)
    torch.testing.assert_close(model.backbone.body.stem.conv.weight, expected)
    assert torch.equal(
        model.backbone.body.stages[3].blocks[0].gamma, network.stages[3].blocks[0].gamma
    )


def test_other_networks_are_refused(tmp_path):
    model = segmenter()
    before = {k: t.clone() for k, t in model.state_dict().items()}
    save_pretrained(classifier("convnextv2_tiny"), tmp_path / "classifier")
    save_detector(detector("slak_tiny"), tmp_path / "detector")
    for source in ("classifier", "detector"):
        with pytest.raises(ValueError, match="weights of another network, not of the backbone"):
            load_backbone_weights(model, tmp_path / source)
    assert equal(model.state_dict(), before)


def test_files_for_bodies_of_timm_are_refused(tmp_path):
    model = create_segmenter("upernet_timm:resnet10t", **WIDTHS)
    with pytest.raises(ValueError, match="weights of timm:resnet10t come from timm; give True"):
        load_backbone_weights(model, tmp_path)
