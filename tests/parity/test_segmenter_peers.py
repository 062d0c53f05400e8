"""Segmentation networks of other libraries: the same logits here, and after the way back."""

import json

import pytest
import torch
from torch import nn

from convnext.models.registry import build_model
from convnext.models.upernet import UPerNet, UPerNetConfig
from convnext.weights import convert, load_backbone_weights, load_segmenter, save_segmenter
from convnext.weights.segmentation import SegmenterPreprocessing
from convnext.weights.segmentation.layout import from_segmenter, to_segmenter

SHAPE = {"depths": (2, 1, 2, 1), "dims": (8, 16, 24, 32)}
LABELS = ("a", "b", "c", "d", "e")
FAMILIES = ["convnext", "convnextv2"]


def perturbed(network: nn.Module, seed: int = 1) -> nn.Module:
    """Give every tensor a value that matters, γ, GRN and the statistics of the norms too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("num_batches_tracked"):
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            vector = tensor.numel() == max(tensor.shape)
            tensor.copy_(0.6 + 0.1 * noise if vector else 0.2 * noise)
    return network.eval()


def ours(family, **config):
    body = build_model(f"{family}_tiny", features_only=True, num_classes=0, **SHAPE)
    config = {"num_classes": 5, "head_dim": 16, "aux_dim": 12, **config}
    return perturbed(UPerNet(UPerNetConfig(backbone=f"{family}_tiny", **config), body), seed=3)


def transformers_network(family):
    import transformers

    kind = {"convnext": "ConvNextConfig", "convnextv2": "ConvNextV2Config"}[family]
    body = getattr(transformers, kind)(
        depths=list(SHAPE["depths"]),
        hidden_sizes=list(SHAPE["dims"]),
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = transformers.UperNetConfig(
        backbone_config=body,
        hidden_size=16,
        auxiliary_channels=12,
        id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)},
    )
    return perturbed(transformers.UperNetForSemanticSegmentation(config))


def smp_network(family, **kwargs):
    import segmentation_models_pytorch as smp

    arguments = {"classes": 5, "decoder_channels": 16, **SHAPE, **kwargs}
    return perturbed(smp.UPerNet(f"tu-{family}_tiny", encoder_weights=None, **arguments))


@pytest.fixture
def x():
    return torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def assert_equal(a, b, x, *, stride_4=False):
    """The same logits, in fp32 and in fp64, whose differences are rounding alone."""
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        a, b, x = a.to(dtype), b.to(dtype), x.to(dtype)
        theirs = b(x)
        theirs = getattr(theirs, "logits", theirs)
        found = a.heads(x)[0] if stride_4 else a(x)
        assert theirs.std() > 0.02  # else equality would say nothing
        assert (found - theirs).abs().max() / theirs.abs().max() < tolerance


# ---- transformers


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_of_transformers(family, x, tmp_path):
    peer = transformers_network(family)
    peer.save_pretrained(tmp_path)
    model, info = load_segmenter(tmp_path)
    assert info.labels == LABELS
    assert info.report.layout.startswith("transformers")
    assert info.report.missing == info.report.unexpected == []
    assert (model.config.head_dim, model.config.aux_dim) == (16, 12)
    assert_equal(model.eval(), peer, x)


@pytest.mark.parametrize("aux_dim", [12, 0])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_for_transformers(family, aux_dim, x, tmp_path):
    import transformers

    model = ours(family, aux_dim=aux_dim, pool_scales=(1, 2, 4))
    preprocessing = SegmenterPreprocessing(window=64, stride=32)
    save_segmenter(model, tmp_path / "ours", labels=LABELS, preprocessing=preprocessing)
    folder = convert(tmp_path / "ours", tmp_path / "theirs", "transformers")
    peer, found = transformers.UperNetForSemanticSegmentation.from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(found.values())
    assert tuple(peer.config.id2label.values()) == LABELS
    assert_equal(model, peer.eval(), x)
    again, info = load_segmenter(folder)  # nothing was lost on the way
    assert again.config == model.float().config
    assert (info.labels, info.preprocessing) == (LABELS, preprocessing)
    config = json.loads((folder / "config.json").read_text())
    config["id2label"]["1"] = "changed"
    (folder / "config.json").write_text(json.dumps(config))
    assert load_segmenter(folder)[1].labels[1] == "changed"


def test_classes_without_names_have_none(tmp_path):
    save_segmenter(ours("convnext"), tmp_path / "ours")
    folder = convert(tmp_path / "ours", tmp_path / "theirs", "transformers")
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3], "size": 512})
    )
    info = load_segmenter(folder)[1]
    assert info.labels is None
    assert (info.preprocessing.mean, info.preprocessing.std) == ((0.1, 0.2, 0.3), (1, 2, 3))


def test_the_auxiliary_head_has_the_same_weights(x, tmp_path):
    peer = transformers_network("convnext")
    peer.save_pretrained(tmp_path)
    model, _ = load_segmenter(tmp_path)
    with torch.no_grad():
        maps = model.backbone(x)
        ours_, theirs = model.auxiliary_head.eval()(maps[2]), peer.auxiliary_head(maps)
    assert theirs.std() > 0.02
    torch.testing.assert_close(ours_, theirs)


def test_a_transformers_folder_starts_a_network(x, tmp_path):
    peer = transformers_network("convnextv2")
    peer.save_pretrained(tmp_path)
    model = ours("convnextv2")
    load_backbone_weights(model, tmp_path)
    with torch.no_grad():
        for a, b in zip(model.backbone(x), peer.backbone(x).feature_maps, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# ---- segmentation_models_pytorch


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_of_smp(family, x, tmp_path):
    peer = smp_network(family, upsampling=1)
    peer.save_pretrained(tmp_path)
    model, info = load_segmenter(tmp_path)
    assert info.report.layout.startswith("smp")
    assert info.report.missing == info.report.unexpected == []
    assert model.auxiliary_head is None
    assert_equal(model.eval(), peer, x, stride_4=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_for_smp(family, x, tmp_path):
    import segmentation_models_pytorch as smp

    model = ours(family)
    save_segmenter(model, tmp_path / "ours", labels=LABELS)
    folder = convert(tmp_path / "ours", tmp_path / "theirs", "smp")
    peer = smp.from_pretrained(folder).eval()
    assert peer.segmentation_head[1].align_corners  # which is why logits in between differ
    corners = model.heads(x)[0][..., :: x.shape[2] // 4 - 1, :: x.shape[3] // 4 - 1]
    torch.testing.assert_close(
        peer(x)[..., :: x.shape[2] - 1, :: x.shape[3] - 1], corners, rtol=1e-4, atol=1e-5
    )
    peer.segmentation_head[1] = nn.Identity()
    assert_equal(model, peer, x, stride_4=True)
    assert load_segmenter(folder)[1].labels == LABELS


def test_networks_whose_pointwise_layers_are_convolutions_there(x):
    import segmentation_models_pytorch as smp

    body = build_model("convnextv2_atto", features_only=True, num_classes=0)
    config = UPerNetConfig(backbone="convnextv2_atto", num_classes=2, head_dim=16, aux_dim=0)
    model = perturbed(UPerNet(config, body))
    peer = smp.UPerNet(
        "tu-convnextv2_atto", encoder_weights=None, classes=2, decoder_channels=16, upsampling=1
    ).eval()
    state = from_segmenter(model.state_dict(), "smp", body.config)
    peer.load_state_dict(state)
    _, converted = to_segmenter(state)
    assert converted.reshaped  # 1x1 convolutions there, linear layers here
    assert_equal(model, peer, x, stride_4=True)
