"""create_model and load_pretrained: sources, adaptation, and what does not fit."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from convnext.models.registry import build_model
from convnext.weights import create_model, load_pretrained, save_pretrained
from convnext.weights.adapting import adapt_in_chans
from convnext.weights.layouts.table import from_convnext

TINY = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}
X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def network(name="convnext_tiny", **kwargs):
    model = build_model(name, **{"num_classes": 5, **TINY, **kwargs}).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.2 + (0.5 if p.ndim == 1 else 0.0))
    return model


@pytest.fixture
def model():
    return network()


@pytest.fixture
def file(model, tmp_path):
    path = tmp_path / "net.pth"
    torch.save({"model": from_convnext(model.state_dict(), "official")}, path)
    return path


def same(a, b, x=X):
    with torch.no_grad():
        return torch.equal(a.eval()(x), b.eval()(x))


def test_new_weights_by_default():
    model = create_model("convnext_atto")
    assert model.config.num_classes == 1000
    assert model.config.in_chans == 3
    assert create_model("convnext_atto", num_classes=0).config.num_classes == 0


def test_a_file_tells_its_network(model, file):
    loaded, info = load_pretrained(file)
    assert loaded.config == model.config
    assert same(loaded, model)
    assert info.report.layout == "official (V1 or V2)"
    assert info.report.wrappers == ("model",)
    assert len(info.report.matched) == len(model.state_dict())
    assert not info.report.missing
    assert info.labels is None
    assert info.preprocessing is None


def test_a_named_network_takes_the_number_of_classes_of_the_weights(model, file):
    loaded = create_model("convnext_tiny", pretrained=file, drop_path_rate=0.2, **TINY)
    assert loaded.config.num_classes == 5
    assert loaded.config.drop_path_rate == 0.2
    assert same(loaded, model)


def test_a_folder_and_a_string_work_like_a_file(model, file, tmp_path):
    save_pretrained(model, tmp_path / "folder")
    for given in (str(file), tmp_path / "folder", str(tmp_path / "folder")):
        assert same(create_model("convnext_tiny", pretrained=given, **TINY), model)


def test_a_run_folder_gives_its_weights(model, tmp_path):
    save_pretrained(model, tmp_path / "run" / "weights", labels=list("abcde"), extra={"top1": 50.0})
    loaded, info = load_pretrained(tmp_path / "run")
    assert same(loaded, model)
    assert info.labels == tuple("abcde")
    assert info.extra == {"top1": 50.0}


def test_a_url(model, file, server):
    server.body = file.read_bytes()
    loaded = create_model("convnext_tiny", pretrained=f"{server.url}/net.pth", **TINY)
    assert same(loaded, model)
    assert same(load_pretrained(f"{server.url}/net.pth")[0], model)
    assert len(server.requests) == 1


@pytest.fixture
def catalogue(server, monkeypatch):
    """The catalogue with the local server in place of the published one."""
    import dataclasses

    from convnext.weights import catalogue

    moved = {
        key: dataclasses.replace(entry, url=f"{server.url}/{key[0]}.{key[1]}.pth")
        for key, entry in catalogue._CATALOGUE.items()
    }
    monkeypatch.setattr(catalogue, "_CATALOGUE", moved)
    return server


@pytest.mark.parametrize("pretrained", [True, "fcmae_ft_in1k", "convnextv2_atto.fcmae_ft_in1k"])
def test_published_weights_with_licence_labels_and_preprocessing(
    pretrained, catalogue, tmp_path, caplog
):
    model = build_model("convnextv2_atto")
    torch.save({"model": from_convnext(model.state_dict(), "official")}, tmp_path / "a.pt")
    catalogue.body = (tmp_path / "a.pt").read_bytes()
    with caplog.at_level(logging.WARNING):
        assert same(create_model("convnextv2_atto", pretrained=pretrained), model)
    assert "licence CC BY-NC 4.0 (non-commercial use only)" in caplog.text
    loaded, info = load_pretrained(pretrained, name="convnextv2_atto", num_classes=7)
    assert loaded.config.num_classes == 7
    assert info.labels is None  # they were those of the other head
    _, info = load_pretrained(pretrained, name="convnextv2_atto")
    assert info.labels[:2] == ("n01440764", "n01443537")
    assert info.descriptions["n01440764"] == "tench, Tinca tinca"
    assert (info.preprocessing.image_size, info.preprocessing.crop_pct) == (224, 0.875)
    assert info.licence == "CC BY-NC 4.0"
    assert info.source in ("convnextv2_atto.fcmae_ft_in1k",)


def test_masked_pretraining_gives_an_encoder_and_new_parts_by_name(catalogue, tmp_path):
    state = from_convnext(build_model("convnextv2_atto").state_dict(), "official")
    encoder = {k: v for k, v in state.items() if not k.startswith(("norm.", "head."))}
    torch.save({"model": encoder}, tmp_path / "a.pt")
    catalogue.body = (tmp_path / "a.pt").read_bytes()
    model = create_model("convnextv2_atto", pretrained="fcmae")
    assert model.config.num_classes == 0
    model, info = load_pretrained("fcmae", name="convnextv2_atto", num_classes=5)
    assert model.head.weight.shape == (5, 320)
    assert torch.equal(model.norm.weight, torch.ones(320))
    assert info.report.missing == ["norm.weight", "norm.bias", "head.weight", "head.bias"]
    assert info.report.adapted == [
        "norm is new (the file holds an encoder only)",
        "head is new (5 classes; the file has 0)",
    ]
    maps = create_model("convnextv2_atto", pretrained="fcmae", features_only=True)(X)
    assert [m.shape[1] for m in maps] == [40, 80, 160, 320]


def test_another_number_of_classes_is_a_new_head(model, file):
    loaded, info = load_pretrained(file, num_classes=2)
    assert loaded.head.weight.shape == (2, 32)
    assert info.report.adapted == ["head is new (2 classes; the file has 5)"]
    with torch.no_grad():
        a, b = (
            m.eval().forward_head(m.forward_features(X), pre_logits=True) for m in (loaded, model)
        )
    assert torch.equal(a, b)
    loaded, info = load_pretrained(file, num_classes=0)
    assert info.report.adapted == ["head with 5 classes left out (num_classes=0)"]


def test_features_only_leaves_norm_and_head_out(model, file):
    loaded, info = load_pretrained(file, features_only=True, out_indices=(1, 3))
    assert info.report.adapted == ["norm and head left out (features_only)"]
    with torch.no_grad():
        assert torch.equal(loaded.eval()(X)[1], model.forward_features(X))


@pytest.mark.parametrize("chans", [1, 2, 4, 6])
def test_input_channels_are_adapted_as_timm_does(chans, model, file):
    from timm.models import adapt_input_conv

    loaded, info = load_pretrained(file, in_chans=chans)
    expected = adapt_input_conv(chans, model.stem.conv.weight.detach().clone())
    assert torch.allclose(loaded.stem.conv.weight, expected, atol=1e-7)
    assert info.report.adapted == [f"stem.conv.weight from 3 to {chans} input channels"]


def test_a_grey_network_sees_what_the_colour_network_saw(model, file):
    grey = torch.randn(2, 1, 64, 64)
    loaded = load_pretrained(file, in_chans=1)[0].eval()
    with torch.no_grad():
        assert (loaded(grey) - model(grey.expand(-1, 3, -1, -1))).abs().max() < 1e-5
    assert adapt_in_chans(loaded.stem.conv.weight, 3).shape[1] == 3


def test_another_stem_stride_keeps_or_resamples_the_stem(model, file):
    loaded, info = load_pretrained(file, stem_stride=2)
    assert torch.equal(loaded.stem.conv.weight, model.stem.conv.weight)
    assert info.report.adapted == []
    loaded, info = load_pretrained(file, stem_stride=1)
    assert info.report.adapted == ["stem.conv.weight resampled from 4x4 to 3x3"]
    before, after = (m.stem.conv.weight.sum((2, 3)) for m in (model, loaded))
    assert torch.corrcoef(torch.stack([before.flatten(), after.flatten()]))[0, 1] > 0.9


def test_layer_scale_comes_from_the_weights(model, file, tmp_path):
    loaded, _ = load_pretrained(file, layer_scale_init_value=1.0)
    assert torch.equal(loaded.stages[0].blocks[0].gamma, model.stages[0].blocks[0].gamma)
    plain = network(layer_scale_init_value=0.0)
    save_file(dict(plain.state_dict()), tmp_path / "plain.safetensors")
    # The registry says that the network of this name has layer scale; the file counts.
    loaded = create_model("convnext_tiny", pretrained=tmp_path / "plain.safetensors", **TINY)
    assert same(loaded, plain)


def test_half_precision_weights_are_loaded_as_float32(model, tmp_path):
    torch.save({k: v.half() for k, v in model.state_dict().items()}, tmp_path / "half.pth")
    loaded, _ = load_pretrained(tmp_path / "half.pth")
    assert loaded.head.weight.dtype == torch.float32
    assert torch.equal(loaded.head.weight, model.head.weight.half().float())


def test_weights_of_another_network_are_named(file):
    with pytest.raises(
        ValueError, match=r"net\.pth holds weights of a network with depths=.*not of convnext_tiny"
    ):
        create_model("convnext_tiny", pretrained=file)


def test_weights_of_another_named_network_are_named(tmp_path):
    torch.save(build_model("convnext_atto").state_dict(), tmp_path / "a.pth")
    with pytest.raises(
        ValueError, match=r"a\.pth holds weights of convnext_atto, not of convnextv2_"
    ):
        create_model("convnextv2_atto", pretrained=tmp_path / "a.pth")


def test_a_missing_tensor_must_be_allowed_by_name(model, tmp_path):
    state = model.state_dict()
    del state["stages.2.blocks.1.pwconv1.bias"]
    torch.save(state, tmp_path / "a.pth")
    message = r"a\.pth \(layout convnext.*missing: stages\.2\.blocks\.1\.pwconv1\.bias"
    with pytest.raises(ValueError, match=message):
        load_pretrained(tmp_path / "a.pth")
    _, info = load_pretrained(tmp_path / "a.pth", allow=["stages.2.*.pwconv1.bias"])
    assert info.report.missing == ["stages.2.blocks.1.pwconv1.bias"]
    assert "missing: stages.2.blocks.1.pwconv1.bias" in str(info.report)


def test_an_unexpected_tensor_must_be_allowed_by_name(model, tmp_path):
    torch.save({**model.state_dict(), "norm0.weight": torch.ones(8)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"unexpected: norm0\.weight.*allow=\["):
        load_pretrained(tmp_path / "a.pth")
    loaded, info = load_pretrained(tmp_path / "a.pth", allow=["norm0.*"])
    assert info.report.unexpected == ["norm0.weight"]
    assert same(loaded, model)


def test_a_tensor_of_another_shape_must_be_allowed_by_name(model, tmp_path):
    state = model.state_dict()
    state["norm.bias"] = torch.zeros(31)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(
        ValueError, match=r"mismatched: norm\.bias \(31,\) in the file, \(32,\) here"
    ):
        load_pretrained(tmp_path / "a.pth")
    loaded, _ = load_pretrained(tmp_path / "a.pth", allow=["norm.bias"])
    assert torch.equal(loaded.norm.bias, torch.zeros(32))


def test_another_architecture_is_refused_with_its_tensor_names(tmp_path):
    import torchvision

    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet.pth")
    with pytest.raises(ValueError, match=r"resnet\.pth: not a ConvNeXt checkpoint.*conv1\.weight"):
        load_pretrained(tmp_path / "resnet.pth")


def test_a_part_of_a_network_is_refused(model, tmp_path):
    state = model.state_dict()
    without_stem = {k: v for k, v in state.items() if not k.startswith("stem.")}
    torch.save(without_stem, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="the stem or all blocks are missing"):
        load_pretrained(tmp_path / "a.pth")
    torch.save({k: v for k, v in state.items() if "2.blocks.0" not in k}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="blocks are missing"):
        load_pretrained(tmp_path / "a.pth")


def test_stems_of_another_kind_are_refused(tmp_path):
    import timm

    overlapping = timm.create_model("convnext_atto_ols", num_classes=2)
    torch.save(overlapping.state_dict(), tmp_path / "ols.pth")
    with pytest.raises(ValueError, match=r"ols\.pth"):
        load_pretrained(tmp_path / "ols.pth")


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("in21k", ValueError, r"convnext_tiny has no weights 'in21k'.* Available: in1k"),
        (Path("no/such/folder"), FileNotFoundError, r"no/such/folder: no such file or folder"),
        ("no/such/file.pth", FileNotFoundError, r"no/such/file\.pth: no such file or folder"),
        ("gone.safetensors", FileNotFoundError, r"gone\.safetensors: no such file.*weights list"),
    ],
)
def test_sources_that_do_not_exist(given, error, message):
    with pytest.raises(error, match=message):
        create_model("convnext_tiny", pretrained=given)


def test_unknown_names_and_arguments(file):
    with pytest.raises(ValueError, match="did you mean convnext_tiny"):
        create_model("convnext_tinny", pretrained=True)
    with pytest.raises(ValueError, match="no published weights for convnext_atto"):
        create_model("convnext_atto", pretrained=True)
    with pytest.raises(ValueError, match="needs the name of a model"):
        load_pretrained(True)
    with pytest.raises(ValueError, match=r"unknown argument of .* 'dephts'; did you mean depths"):
        load_pretrained(file, dephts=(1, 1, 1, 1))
    with pytest.raises(FileNotFoundError, match=r"no MODEL\.TAG of the catalogue"):
        load_pretrained("nothing")


def test_a_network_without_connection_names_the_way_out(monkeypatch, tmp_path):
    monkeypatch.setenv("CONVNEXT_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(OSError, match=r"convnext_tiny_1k_224_ema\.pth.*give its path instead"):
        create_model("convnext_tiny", pretrained=True)
