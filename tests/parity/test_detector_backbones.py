"""Backbones of timm and transformers in detectors: the same maps, here and after the way back."""

import pytest
import torch
from torch import nn

from convnext.models.mask_rcnn import MaskRCNN, MaskRCNNConfig
from convnext.models.registry import build_model
from convnext.weights.detection import load_backbone_weights, load_detector
from convnext.weights.detection.layout import from_detector

SHAPE = {"depths": (2, 1, 2, 1), "dims": (8, 16, 24, 32)}
SETTINGS = {"fpn_dim": 16, "fc_dim": 24, "mask_convs": 1, "num_classes": 3}


def perturbed(network: nn.Module, seed: int = 1) -> nn.Module:
    """Give every parameter a value that matters, γ and the norms of the maps too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            noise = torch.randn(p.shape, generator=generator)
            p.copy_(0.5 + 0.3 * noise if p.ndim != 2 and p.numel() == max(p.shape) else 0.2 * noise)
    return network.eval()


def timm_features(family):
    import timm

    return timm.create_model(f"{family}_tiny", features_only=True, **SHAPE)


def transformers_backbone(family):
    import transformers

    config, network = {
        "convnext": (transformers.ConvNextConfig, transformers.ConvNextBackbone),
        "convnextv2": (transformers.ConvNextV2Config, transformers.ConvNextV2Backbone),
    }[family]
    return network(
        config(
            depths=list(SHAPE["depths"]),
            hidden_sizes=list(SHAPE["dims"]),
            out_features=["stage1", "stage2", "stage3", "stage4"],
        )
    )


MAKERS = {"timm": timm_features, "transformers": transformers_backbone}


def ours(family):
    body = build_model(f"{family}_tiny", features_only=True, num_classes=0, **SHAPE)
    return perturbed(MaskRCNN(MaskRCNNConfig(backbone=f"{family}_tiny", **SETTINGS), body), seed=3)


def maps(network, x):
    with torch.no_grad():
        out = network(x)
    return list(out.feature_maps) if hasattr(out, "feature_maps") else list(out)


def assert_same_maps(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert b.std() > 0.1  # else equality would say nothing
        assert (a - b).abs().max() / b.abs().max() < 1e-5


@pytest.fixture
def x():
    return torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("family", ["convnext", "convnextv2"])
@pytest.mark.parametrize("layout", MAKERS)
def test_a_detector_around_it_loads_here(layout, family, x, tmp_path):
    peer = perturbed(MAKERS[layout](family))
    heads = {k: t for k, t in ours(family).state_dict().items() if not k.startswith("backbone.")}
    norms = {k: t for k, t in ours(family).state_dict().items() if k.startswith("backbone.norm")}
    state = {f"backbone.{name}": tensor for name, tensor in peer.state_dict().items()} | heads
    if layout == "timm":  # which has no norms of its own
        state |= norms
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    model, info = load_detector(tmp_path / "a.pth")
    assert info.report.layout.startswith(layout)
    whole = model.eval().backbone
    assert_same_maps(maps(whole.body if layout == "timm" else whole, x), maps(peer, x))


@pytest.mark.parametrize("family", ["convnext", "convnextv2"])
@pytest.mark.parametrize("layout", MAKERS)
def test_ours_loads_strictly_there(layout, family, x):
    model = ours(family)
    state = from_detector(model.state_dict(), layout, model.backbone.body.config)
    own = {k.removeprefix("backbone."): t for k, t in state.items() if k.startswith("backbone.")}
    if layout == "timm":
        own = {name: tensor for name, tensor in own.items() if not name.startswith("norm")}
    peer = MAKERS[layout](family).eval()
    peer.load_state_dict(own)
    whole = model.backbone
    assert_same_maps(maps(peer, x), maps(whole.body if layout == "timm" else whole, x))


@pytest.mark.parametrize("family", ["convnext", "convnextv2"])
@pytest.mark.parametrize("layout", MAKERS)
def test_its_weights_alone_start_a_detector(layout, family, x, tmp_path):
    peer = perturbed(MAKERS[layout](family))
    torch.save(peer.state_dict(), tmp_path / "a.pth")
    model = ours(family)
    before = {k: t.clone() for k, t in model.state_dict().items()}
    report = load_backbone_weights(model, tmp_path / "a.pth")
    assert not report.missing
    whole = model.backbone
    assert_same_maps(maps(whole.body if layout == "timm" else whole, x), maps(peer, x))
    for name, tensor in model.state_dict().items():
        kept = not name.startswith("backbone.body.")
        if layout == "transformers":
            kept = kept and not name.startswith("backbone.")
        if kept:
            assert torch.equal(tensor, before[name]), name


def test_a_transformers_folder_starts_a_detector(x, tmp_path):
    peer = perturbed(transformers_backbone("convnextv2"))
    peer.save_pretrained(tmp_path)
    model = ours("convnextv2")
    load_backbone_weights(model, tmp_path)
    assert_same_maps(maps(model.backbone, x), maps(peer, x))
