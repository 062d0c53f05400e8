"""A folder of save_pretrained in the three real libraries: equal logits, labels, preprocessing."""

import json

import pytest
import torch

import convnext
from convnext.models.registry import build_model
from convnext.weights import Preprocessing, convert, load_pretrained, save_pretrained

NARROW = {"depths": (2, 1, 2, 1), "dims": (8, 16, 24, 32)}
LABELS = ["good", "cracked", "dirty"]


def network(name="convnext_tiny", **kwargs):
    kwargs.setdefault("num_classes", 3)
    model = build_model(name, **kwargs).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.2 + (0.5 if p.ndim == 1 else 0.0))
    return model


def close(a, b):
    assert a.shape == b.shape
    assert a.std() > 0.1
    assert (a - b).abs().max() / a.abs().max() < 1e-5


CASES = {
    "v1": ("convnext_tiny", NARROW),
    "v2": ("convnextv2_tiny", NARROW),
    "v1_named": ("convnext_atto", {}),  # timm builds it with 1x1 convolutions
    "v2_named": ("convnextv2_atto", {}),
    "v1_without_layer_scale": ("convnext_tiny", NARROW | {"layer_scale_init_value": 0.0}),
    "v2_with_layer_scale": ("convnextv2_tiny", NARROW | {"layer_scale_init_value": 0.1}),
    "grey": ("convnext_tiny", NARROW | {"in_chans": 1}),
    "four_channels": ("convnextv2_tiny", NARROW | {"in_chans": 4}),
    "one_thousand": ("convnext_tiny", NARROW | {"num_classes": 1000}),
}


@pytest.mark.parametrize("case", CASES)
def test_three_libraries_load_the_folder(case, tmp_path):
    import timm
    from transformers import AutoModelForImageClassification

    name, kwargs = CASES[case]
    model = network(name, **kwargs)
    chans = model.config.in_chans
    x = torch.randn(2, chans, 64, 64)
    labels = LABELS if model.config.num_classes == 3 else None
    save_pretrained(model, tmp_path / "m", labels=labels)
    with torch.no_grad():
        expected = model(x)
        ours, info = load_pretrained(tmp_path / "m")
        assert torch.equal(ours.eval()(x), expected)
        assert ours.config == model.config
        assert info.labels == (None if labels is None else tuple(labels))
        peer = timm.create_model(f"local-dir:{tmp_path / 'm'}", pretrained=True).eval()
        close(expected, peer(x))
        peer = AutoModelForImageClassification.from_pretrained(tmp_path / "m").eval()
        close(expected, peer(x).logits)
    if labels:
        assert list(peer.config.id2label.values()) == labels


def test_preprocessing_is_the_same_in_the_three_libraries(tmp_path):
    import timm
    from timm.data import resolve_model_data_config
    from transformers import AutoImageProcessor

    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    wanted = Preprocessing(
        image_size=64, mean=mean, std=std, interpolation="bilinear", crop_pct=0.9
    )
    model = network(**NARROW)
    save_pretrained(model, tmp_path / "m", labels=LABELS, preprocessing=wanted)
    assert load_pretrained(tmp_path / "m")[1].preprocessing == wanted
    config = resolve_model_data_config(timm.create_model(f"local-dir:{tmp_path / 'm'}"))
    assert list(config["input_size"]) == [3, 64, 64]
    assert (tuple(config["mean"]), tuple(config["std"])) == (mean, std)
    assert (config["interpolation"], config["crop_pct"]) == ("bilinear", 0.9)
    assert config["crop_mode"] == "center"
    processor = AutoImageProcessor.from_pretrained(tmp_path / "m")
    assert list(processor.data_config["input_size"]) == [3, 64, 64]
    assert tuple(processor.data_config["mean"]) == mean


def test_squash_is_written_for_large_images(tmp_path):
    save_pretrained(network(**NARROW), tmp_path, preprocessing=Preprocessing(image_size=384))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["pretrained_cfg"]["crop_mode"] == "squash"
    assert "num_classes" not in config["model_args"]


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("convnext_isotropic_small", {"depths": (2,), "dims": (16,)}),
        ("convnext_isotropic_large", {"depths": (2,), "dims": (16,)}),
        ("convnext_tiny", NARROW | {"stem_stride": 2}),
        ("convnext_tiny", NARROW | {"stem_stride": 1}),
        ("convnextv2_tiny", {"depths": (1, 1), "dims": (8, 16)}),
    ],
)
def test_networks_that_others_cannot_build_load_here_and_are_refused_there(name, kwargs, tmp_path):
    import timm
    from transformers import AutoModelForImageClassification

    model = network(name, **kwargs)
    save_pretrained(model, tmp_path, labels=LABELS)
    x = torch.randn(2, 3, 64, 64)
    for source in (tmp_path, tmp_path / "model.safetensors"):  # the file alone says enough
        ours, info = load_pretrained(source)
        assert ours.config == model.config
        assert info.labels == tuple(LABELS)
        with torch.no_grad():
            assert torch.equal(ours.eval()(x), model(x))
    with pytest.raises(RuntimeError, match=r"Unknown model .*only_in_convnext"):
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    with pytest.raises(ImportError, match="only_in_convnext"):  # how transformers says it
        AutoModelForImageClassification.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["convnext_tiny", "convnextv2_tiny"])
def test_converted_folder_is_transformers_own_network(name, tmp_path):
    from transformers import AutoModelForImageClassification

    model = network(name, **NARROW)
    save_pretrained(model, tmp_path / "ours", labels=LABELS)
    convert(tmp_path / "ours", tmp_path / "theirs", "transformers")
    peer = AutoModelForImageClassification.from_pretrained(tmp_path / "theirs").eval()
    assert type(peer).__name__ in (
        "ConvNextForImageClassification",
        "ConvNextV2ForImageClassification",
    )
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        close(model(x), peer(x).logits)
    assert list(peer.config.id2label.values()) == LABELS


@pytest.mark.parametrize("name", ["ConvNext", "ConvNextV2"])
def test_a_folder_that_transformers_wrote_loads_here(name, tmp_path):
    import transformers

    config = getattr(transformers, f"{name}Config")(
        depths=[1, 1, 2, 1],
        hidden_sizes=[8, 16, 24, 32],
        id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)},
    )
    peer = getattr(transformers, f"{name}ForImageClassification")(config).eval()
    with torch.no_grad():
        for p in peer.parameters():
            p.copy_(torch.randn_like(p) * 0.2 + (0.5 if p.numel() == max(p.shape) else 0.0))
    peer.save_pretrained(tmp_path)
    size = {"shortest_edge": 224}
    processor = transformers.ConvNextImageProcessor(
        size=size, crop_pct=0.9, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]
    )
    processor.save_pretrained(tmp_path)
    model, info = load_pretrained(tmp_path)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        close(peer(x).logits, model.eval()(x))
    assert info.labels == tuple(LABELS)
    assert info.preprocessing.mean == (0.1, 0.2, 0.3)
    assert (info.preprocessing.image_size, info.preprocessing.crop_pct) == (224, 0.9)


def test_a_folder_that_timm_wrote_loads_here(tmp_path):
    import timm
    from timm.models import save_for_hf

    peer = timm.create_model("convnextv2_atto", num_classes=3).eval()
    save_for_hf(peer, tmp_path, model_config={"label_names": LABELS})
    model, info = load_pretrained(tmp_path)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert (model.eval()(x) - peer(x)).abs().max() < 1e-5
    assert info.labels == tuple(LABELS)
    assert info.preprocessing.crop_pct == 0.875


def test_public_names():
    model = convnext.create_model("convnext_atto", num_classes=2)
    assert model.config.num_classes == 2
    assert convnext.save_pretrained is save_pretrained
    assert convnext.load_pretrained is load_pretrained
