"""Starting detectors from classifiers, encoders and other detectors; bodies of timm."""

import pytest
import torch
from small_detectors import BODIES, SHAPE, WIDTHS, detector, equal, maps_of, perturbed

from convnext.models.registry import build_model
from convnext.weights import save_pretrained
from convnext.weights.detection import create_detector, load_backbone_weights, save_detector
from convnext.weights.layouts.table import from_convnext
from convnext.weights.timm_backbone import TimmBackbone


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
    network, model = classifier(name), detector(name)
    before = above(model)
    save_pretrained(network, tmp_path)
    report = load_backbone_weights(model, tmp_path)
    assert equal(model.backbone.body.state_dict(), without_head(network))
    assert equal(above(model), before)
    assert report.missing == report.unexpected == []
    assert "norm and head left out" in str(report)


LAYOUTS = ("convnext", "official", "timm", "transformers", "openmmlab")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["convnext_tiny", "convnextv2_tiny"])
def test_a_classifier_of_any_layout(name, layout, tmp_path):
    network, model = classifier(name), detector(name)
    before = above(model)
    state = from_convnext(network.state_dict(), layout)
    torch.save({"model": state, "epoch": 3}, tmp_path / "a.pth")
    report = load_backbone_weights(model, tmp_path / "a.pth")
    assert report.layout.startswith(layout)
    assert equal(model.backbone.body.state_dict(), without_head(network))
    assert equal(above(model), before)  # "norm3" of OpenMMLab's classifiers is their last norm


def test_an_encoder_of_masked_pre_training(tmp_path):
    network, model = classifier("convnextv2_tiny"), detector("convnextv2_tiny")
    sparse = from_convnext(without_head(network), "fcmae")
    torch.save({"model": {**sparse, "mask_token": torch.ones(1)}}, tmp_path / "a.pth")
    report = load_backbone_weights(model, tmp_path / "a.pth")
    assert equal(model.backbone.body.state_dict(), without_head(network))
    assert report.dropped == ["mask_token"]


def test_averaged_weights_are_preferred(tmp_path):
    network, model = classifier(), detector()
    state = network.state_dict()
    other = {name: tensor + 1 for name, tensor in state.items()}
    assert not equal(model.backbone.body.state_dict(), without_head(network))
    torch.save({"model": other, "model_ema": state}, tmp_path / "a.pth")
    load_backbone_weights(model, tmp_path / "a.pth")
    assert equal(model.backbone.body.state_dict(), without_head(network))
    load_backbone_weights(model, tmp_path / "a.pth", ema=False)
    assert torch.equal(model.backbone.body.stem.conv.bias, other["stem.conv.bias"])


def test_another_detector_gives_its_norms_too(tmp_path):
    source, model = detector(cascade=True, num_classes=9), detector()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    rpn = model.rpn_head.rpn_cls.weight.clone()
    save_detector(source, tmp_path)
    report = load_backbone_weights(model, tmp_path)
    assert equal(model.backbone.state_dict(), source.backbone.state_dict())
    assert torch.equal(model.rpn_head.rpn_cls.weight, rpn)
    assert "neck and heads left out" in str(report)
    assert "norms of the maps come from the file" in str(report)


def test_other_channels_adapt_the_stem(tmp_path):
    network, model = classifier(), detector(in_chans=1)
    save_pretrained(network, tmp_path)
    report = load_backbone_weights(model, tmp_path)
    assert "from 3 to 1 input channels" in str(report)
    expected = network.stem.conv.weight.sum(1, keepdim=True)
    torch.testing.assert_close(model.backbone.body.stem.conv.weight, expected)


def test_create_with_weights_of_the_backbone(tmp_path):
    network = classifier()
    save_pretrained(network, tmp_path)
    model = create_detector(
        "cascade_mask_rcnn_convnext_tiny", backbone_weights=tmp_path, body=SHAPE, **WIDTHS
    )
    assert equal(model.backbone.body.state_dict(), without_head(network))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("convnext_tiny", {"dims": (8, 16, 24, 40)}, "weights of another network, not of the"),
        ("convnextv2_tiny", {}, "weights of another network, not of the backbone here"),
        ("replknet_31b", {}, "weights of another network"),
    ],
)
def test_other_networks_are_refused(name, changes, message, tmp_path):
    save_pretrained(classifier(name, **changes), tmp_path)
    model = detector()
    before = {k: t.clone() for k, t in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_backbone_weights(model, tmp_path)
    assert equal(model.state_dict(), before)


def test_damaged_files_change_nothing(tmp_path):
    model, state = detector(), dict(classifier().state_dict())
    before = {k: t.clone() for k, t in model.state_dict().items()}
    for change, message in (
        ({"stages.0.blocks.0.norm.bias": torch.zeros(3)}, "mismatched"),
        ({"stages.0.blocks.0.what.bias": torch.zeros(3)}, "unexpected"),
    ):
        torch.save({**state, **change}, tmp_path / "a.pth")
        with pytest.raises(ValueError, match=message):
            load_backbone_weights(model, tmp_path / "a.pth")
    norms = {f"norm{i}.{leaf}": torch.ones(3) for i in range(4) for leaf in ("weight", "bias")}
    torch.save({**without_head(classifier()), **norms}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"mismatched: norm0\.weight \(3,\) in the file"):
        load_backbone_weights(model, tmp_path / "a.pth")
    assert equal(model.state_dict(), before)


# ---- timm


@pytest.mark.parametrize("name", ["resnet10t", "convnextv2_atto", "efficientnet_lite0"])
def test_bodies_of_timm_give_four_maps(name):
    body = TimmBackbone(name, in_chans=1, drop_path_rate=0.1).eval()
    maps = maps_of(body, torch.zeros(2, 1, 96, 64))
    assert [tuple(m.shape[2:]) for m in maps] == [(24, 16), (12, 8), (6, 4), (3, 2)]
    assert [m.shape[1] for m in maps] == body.feature_info.channels()
    assert body.feature_info.reduction() == [4, 8, 16, 32]


def test_windows_of_any_size_and_channels_at_the_end():
    body = TimmBackbone("swin_tiny_patch4_window7_224").eval()
    maps = maps_of(body, torch.zeros(1, 3, 96, 128))
    assert [m.shape[1] for m in maps] == body.feature_info.channels() == [96, 192, 384, 768]


def test_a_detector_on_a_network_of_timm_detects_and_learns():
    model = create_detector("mask_rcnn_timm:resnet10t", masks=False, **WIDTHS)
    images, sizes = torch.randn(1, 3, 64, 64), torch.tensor([[64, 64]])
    assert len(model.eval()(images, sizes)) == 1
    model.backbone.body.set_grad_checkpointing()
    losses = model.train().rpn_head.losses(model.dense(images)[1], sizes, [torch.zeros(0, 4)])
    sum(losses.values()).backward()
    assert model.backbone.body.model.conv1[0].weight.grad is not None


@pytest.mark.parametrize(
    ("name", "rate", "message"),
    [
        ("resnett10", 0.0, "unknown timm model 'resnett10'; did you mean"),
        ("vit_tiny_patch16_224", 0.0, r"strides \[16, 16, 16\]; a backbone needs one"),
        ("hrnet_w18_small", 0.1, "cannot be a backbone with drop_path_rate"),
    ],
)
def test_what_timm_has_not(name, rate, message):
    with pytest.raises(ValueError, match=message):
        TimmBackbone(name, drop_path_rate=rate)


def test_files_for_bodies_of_timm_are_refused(tmp_path):
    model = create_detector("mask_rcnn_timm:resnet10t", **WIDTHS)
    with pytest.raises(ValueError, match="weights of timm:resnet10t come from timm; give True"):
        load_backbone_weights(model, tmp_path)
