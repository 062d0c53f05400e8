"""Segmentation networks saved, loaded, converted and inspected."""

import json
import logging
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from small_detectors import BODIES, SHAPE, equal
from small_segmenters import WIDTHS, segmenter

from convnext.models.large_kernel import merge
from convnext.models.registry import build_model, model_config
from convnext.models.upernet import UPerNet, UPerNetConfig
from convnext.weights import convert, inspect, merge_weights
from convnext.weights.segmentation import (
    AUXILIARY,
    PREDICTORS,
    SegmenterPreprocessing,
    create_segmenter,
    is_segmenter,
    load_segmenter,
    load_segmenter_weights,
    save_segmenter,
)
from convnext.weights.segmentation.layout import SEGMENTER_LAYOUTS, from_segmenter
from convnext.weights.segmentation.system import SYSTEM
from convnext.weights.systems.body import system_name

LABELS = ("a", "ä b", "c")


@pytest.fixture
def model():
    return segmenter()


def official(model, layout="official"):
    return from_segmenter(model.state_dict(), layout, model.backbone.body.config)


def test_everything_comes_back(model, tmp_path):
    preprocessing = SegmenterPreprocessing(
        min_size=0, max_size=640, window=96, stride=64, mean=(0.5,) * 3, std=(0.2,) * 3
    )
    folder = save_segmenter(
        model,
        tmp_path / "deep" / "folder",
        labels=LABELS,
        preprocessing=preprocessing,
        name="my_segmenter",
        licence="CC0",
        extra={"miou": 41.5},
    )
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    for source in (folder, folder / "model.safetensors"):
        loaded, info = load_segmenter(source)
        assert equal(loaded.state_dict(), model.state_dict())
        assert loaded.config == model.config
        assert (info.labels, info.preprocessing) == (LABELS, preprocessing)
        assert (info.name, info.licence) == ("my_segmenter", "CC0")
        assert info.extra == {"miou": 41.5}
        assert len(info.report.matched) == len(model.state_dict())


@pytest.mark.parametrize("aux_dim", [12, 0])
@pytest.mark.parametrize("backbone", BODIES)
def test_every_kind_of_body_with_all_settings(backbone, aux_dim, tmp_path):
    model = segmenter(
        backbone, in_chans=2, aux_dim=aux_dim, pool_scales=(1, 2, 4), dropout=0.3, num_classes=1
    )
    loaded, info = load_segmenter(save_segmenter(model, tmp_path))
    assert equal(loaded.state_dict(), model.state_dict())
    assert loaded.config == model.config
    assert loaded.backbone.body.config == model.backbone.body.config
    assert info.report.missing == info.report.unexpected == []


@pytest.mark.parametrize("backbone", ["slak_tiny", "replknet_31b"])
def test_merging_a_file_keeps_the_function(backbone, tmp_path):
    model = segmenter(backbone)
    save_segmenter(model, tmp_path / "a", labels=LABELS)
    merged, info = load_segmenter(merge_weights(tmp_path / "a", tmp_path / "b"))
    assert info.labels == LABELS
    assert merged.backbone.body.config.merged
    assert equal(merged.backbone.body.state_dict(), merge(model.backbone.body).state_dict())
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(merged.eval()(x), model(x), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="has no branches to merge, or is merged already"):
        merge_weights(tmp_path / "b", tmp_path / "c")


def test_bodies_that_only_this_package_has(tmp_path):
    body = build_model(
        "roadmap_t_depthwise", features_only=True, num_classes=0, depths=(1,) * 4, width=8
    )
    model = UPerNet(UPerNetConfig(backbone="roadmap_t_depthwise", **WIDTHS), body)
    loaded, _ = load_segmenter(save_segmenter(model, tmp_path))
    assert equal(loaded.state_dict(), model.state_dict())
    with pytest.raises(ValueError, match="layout official has no segmentation network with this"):
        convert(tmp_path, tmp_path / "a.pth", "official")


def test_bodies_of_timm(tmp_path):
    model = create_segmenter("upernet_timm:resnet10t", in_chans=2, **WIDTHS)
    loaded, info = load_segmenter(save_segmenter(model, tmp_path))
    assert equal(loaded.state_dict(), model.state_dict())
    assert loaded.config == model.config
    assert "timm:resnet10t" in str(inspect(tmp_path))
    assert info.report.layout.startswith("convnext")
    for target in ("a.pth", "folder"):
        with pytest.raises(ValueError, match="no body of another library"):
            convert(tmp_path, tmp_path / target, "transformers")


def test_the_name_is_found_out():
    config = UPerNetConfig(backbone="slak_tiny", num_classes=2, aux_dim=0, dropout=0.5)
    assert system_name(SYSTEM, config, model_config("slak_tiny")) == "upernet_slak_tiny"
    for change in ({"head_dim": 64}, {"pool_scales": (1, 2, 3, 4)}):
        assert system_name(SYSTEM, replace(config, **change)) is None
    assert system_name(SYSTEM, config, model_config("convnext_tiny")) is None


def test_wrapped_networks_are_saved_bare(model, tmp_path):
    save_segmenter(torch.nn.DataParallel(torch.compile(model)), tmp_path)
    assert equal(load_segmenter(tmp_path)[0].state_dict(), model.state_dict())


def test_labels_edited_by_hand_count(model, tmp_path):
    save_segmenter(model, tmp_path, labels=LABELS)
    config = json.loads((tmp_path / "config.json").read_text())
    config["label_names"] = ["x", "y", "z"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_segmenter(tmp_path)[1].labels == ("x", "y", "z")


def test_the_folder_of_a_run(model, tmp_path):
    save_segmenter(model, tmp_path / "weights", labels=LABELS)
    assert is_segmenter(tmp_path)
    assert load_segmenter(tmp_path)[1].labels == LABELS


# How training programs wrap the weights, and where they put the names of the classes.
META = {"epoch": 16, "iter": 160000, "config": "model = dict()", "mmseg_version": "0.11.0"}
PALETTE = [[120, 120, 120], [180, 120, 120], [6, 230, 230]]
WRAPPED = {
    "bare": lambda state: state,
    "mmcv": lambda state: {
        "meta": {**META, "CLASSES": LABELS, "PALETTE": PALETTE},
        "state_dict": state,
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]},
    },
    "a run": lambda state: {
        "task": {f"network.{k}": t for k, t in state.items()},
        "recipe": {"seed": 1},
    },
    "distributed": lambda state: {"state_dict": {f"module.{k}": t for k, t in state.items()}},
    "mmengine": lambda state: {
        "meta": {"dataset_meta": {"classes": LABELS, "palette": PALETTE}},
        "state_dict": state,
    },
}


@pytest.mark.parametrize("layout", SEGMENTER_LAYOUTS)
@pytest.mark.parametrize("wrapping", WRAPPED)
def test_files_of_training_programs(wrapping, layout, tmp_path):
    model = segmenter("convnextv2_tiny", aux_dim=0)
    torch.save(WRAPPED[wrapping](official(model, layout)), tmp_path / "a.pth")
    loaded, info = load_segmenter(tmp_path / "a.pth")
    assert equal(loaded.state_dict(), model.state_dict())
    assert loaded.config == model.config
    assert info.report.layout.startswith(layout)
    assert info.labels == (LABELS if wrapping in ("mmcv", "mmengine") else None)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_conversion_through_all_layouts(suffix, tmp_path):
    model = segmenter(aux_dim=0)
    source = save_segmenter(model, tmp_path / "first", labels=LABELS, licence="CC0")
    for layout in (*SEGMENTER_LAYOUTS, "convnext"):
        target = tmp_path / f"{layout}{suffix}"
        assert convert(source, target, layout) == target
        source = target
        assert inspect(target).layout.startswith(layout)
    loaded, info = load_segmenter(source)
    assert equal(loaded.state_dict(), model.state_dict())
    assert info.licence == (None if suffix == ".pth" else "CC0")


def test_names_of_classes_stand_where_others_look_for_them(model, tmp_path):
    source = save_segmenter(model, tmp_path / "first", labels=LABELS)
    metas = {"CLASSES": list(LABELS)}, {"dataset_meta": {"classes": list(LABELS)}}
    for layout, meta in zip(("official", "openmmlab"), metas, strict=True):
        target = convert(source, tmp_path / f"{layout}.pth", layout)
        content = torch.load(target, weights_only=True)
        assert content["meta"] == meta
        assert content["state_dict"].keys() == official(model, layout).keys()
        assert load_segmenter(target)[1].labels == LABELS


def test_conversion_to_a_folder(model, tmp_path):
    torch.save(WRAPPED["mmcv"](official(model, "openmmlab")), tmp_path / "a.pth")
    loaded, info = load_segmenter(convert(tmp_path / "a.pth", tmp_path / "folder", "convnext"))
    assert equal(loaded.state_dict(), model.state_dict())
    assert info.labels == LABELS
    with pytest.raises(ValueError, match="folders are for convnext, transformers, smp"):
        convert(tmp_path / "folder", tmp_path / "other", "timm")
    with pytest.raises(ValueError, match=r"unknown ending '\.onnx'"):
        convert(tmp_path / "folder", tmp_path / "a.onnx", "official")


@pytest.mark.parametrize("target", ["a.pth", "folder"])
def test_what_smp_has_not(model, target, tmp_path, caplog):
    source = save_segmenter(model, tmp_path / "first", labels=LABELS)
    with caplog.at_level(logging.INFO):
        convert(source, tmp_path / target, "smp")
    assert "no place for 8 tensors (auxiliary_head.*), they are left out" in caplog.text
    other = segmenter(pool_scales=(1, 2, 3, 4))
    save_segmenter(other, tmp_path / "other")
    with pytest.raises(ValueError, match=r"smp pools to the scales \(1, 2, 3, 6\) only"):
        convert(tmp_path / "other", tmp_path / target, "smp")


def test_conversion_loses_nothing_in_silence(model, tmp_path):
    more = {"decode_head.sem_seg.weight": torch.ones(1)}
    torch.save({**official(model), **more}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"not part of a ConvNeXt: decode_head\.sem_seg"):
        convert(tmp_path / "a.pth", tmp_path / "b.pth", "official")
    convert(tmp_path / "a.pth", tmp_path / "b.pth", "official", allow=["*.sem_seg.*"])
    assert not load_segmenter(tmp_path / "b.pth")[1].report.unexpected
    with pytest.raises(ValueError, match=r"unexpected: decode_head\.sem_seg\.weight"):
        load_segmenter(tmp_path / "a.pth")


def test_inspection(tmp_path):
    model = segmenter("convnextv2_tiny", in_chans=1, aux_dim=0, pool_scales=(1, 2, 4, 8))
    save_segmenter(model, tmp_path, labels=LABELS, licence="CC0")
    text = str(inspect(tmp_path))
    for part in (
        "official (V1 or V2)",
        "no named segmentation network has these parts",
        "no named network has these blocks",
        "UPerNet of 16 channels, pooled to (1, 2, 4, 8), no auxiliary head",
        f"{sum(p.numel() for p in model.parameters()):,} (float32)",
        "classes     3",
        "channels    1",
        "a, ä b, c",
        "CC0",
    ):
        assert part in text
    torch.save({"meta": META, "state_dict": official(segmenter())}, tmp_path / "a.pth")
    text = str(inspect(tmp_path / "a.pth"))
    for part in ("auxiliary head of 12", "state_dict", "meta"):
        assert part in text


# ---- another number of classes, other channels, with and without the auxiliary head


def test_another_number_of_classes_starts_new_last_layers(model, tmp_path):
    save_segmenter(model, tmp_path, labels=LABELS)
    loaded, info = load_segmenter(tmp_path, num_classes=5)
    assert info.labels is None
    own, old = loaded.state_dict(), model.state_dict()
    new = {f"{head}.conv_seg.{leaf}" for head in ("decode_head", "auxiliary_head")
           for leaf in ("weight", "bias")}  # fmt: skip
    assert new == set(info.report.missing)
    assert new == {name for name in own if own[name].shape != old[name].shape}
    assert all(torch.equal(own[name], old[name]) for name in own if name not in new)
    assert "predictors are new (5 classes; file: 3)" in str(info.report)
    same, info = load_segmenter(tmp_path, num_classes=3)
    assert equal(same.state_dict(), old)
    assert info.labels == LABELS


def test_into_a_network_with_another_number_of_classes(model, tmp_path):
    save_segmenter(model, tmp_path)
    other = segmenter(num_classes=5)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    message = r"segments 3 classes, this segmentation network 5: .*allow=PREDICTORS"
    with pytest.raises(ValueError, match=message):
        load_segmenter_weights(other, tmp_path)
    assert equal(other.state_dict(), before)
    load_segmenter_weights(other, tmp_path, allow=PREDICTORS)
    assert torch.equal(
        other.decode_head.bottleneck.bn.weight, model.decode_head.bottleneck.bn.weight
    )
    assert torch.equal(other.decode_head.conv_seg.weight, before["decode_head.conv_seg.weight"])


@pytest.mark.parametrize("backbone", ["convnext_tiny", "replknet_31b"])
def test_other_channels_adapt_the_stem(backbone, tmp_path):
    model = segmenter(backbone)
    save_segmenter(model, tmp_path)
    loaded, info = load_segmenter(tmp_path, in_chans=1)
    name = "stem.conv.weight" if backbone == "convnext_tiny" else "stem.layers.0.conv.weight"
    stem, old = (m.backbone.body.get_parameter(name) for m in (loaded, model))
    torch.testing.assert_close(stem, old.sum(1, keepdim=True))
    assert "from 3 to 1 input channels" in str(info.report)
    wide, _ = load_segmenter(tmp_path, in_chans=6)
    assert wide.backbone.body.get_parameter(name).shape[1] == 6


def test_without_the_auxiliary_head_and_with_a_new_one(model, tmp_path):
    save_segmenter(model, tmp_path / "a")
    loaded, info = load_segmenter(tmp_path / "a", aux_dim=0)
    assert loaded.auxiliary_head is None
    assert "auxiliary head left out (aux_dim=0)" in str(info.report)
    save_segmenter(loaded, tmp_path / "b")
    again, info = load_segmenter(tmp_path / "b", aux_dim=8)
    assert again.config.aux_dim == 8
    assert all(name.startswith("auxiliary_head.") for name in info.report.missing)
    with pytest.raises(ValueError, match=r"missing: auxiliary_head\."):
        load_segmenter_weights(segmenter(), tmp_path / "b")
    info = load_segmenter_weights(segmenter(num_classes=5), tmp_path / "b",
                                  allow=(*PREDICTORS, AUXILIARY))  # fmt: skip
    assert {name.split(".")[0] for name in info.report.missing} == {"auxiliary_head", "decode_head"}
    load_segmenter_weights(segmenter(aux_dim=0), tmp_path / "a")


def test_settings_that_no_shape_tells(model, tmp_path):
    other = segmenter(pool_scales=(1, 3), dropout=0.2)
    save_segmenter(other, tmp_path)
    loaded, _ = load_segmenter(tmp_path, dropout=0.5, drop_path_rate=0.1)
    assert (loaded.config.pool_scales, loaded.config.dropout) == ((1, 3), 0.5)
    assert loaded.backbone.body.config.drop_path_rate == 0.1
    torch.save(official(other), tmp_path / "a.pth")  # which knows less
    with pytest.raises(ValueError, match=r"pools to 2 scales, but pool_scales are \(1, 2, 3, 6\)"):
        load_segmenter(tmp_path / "a.pth")
    assert load_segmenter(tmp_path / "a.pth", pool_scales=(1, 3))[0].config.pool_scales == (1, 3)
    info = load_segmenter_weights(segmenter(pool_scales=(1, 3)), tmp_path / "a.pth")
    assert not info.report.missing
    info = load_segmenter_weights(segmenter(pool_scales=(1, 4)), tmp_path)
    assert "pool_scales (1, 3) in the file, (1, 4) here" in str(info.report)


def test_create_with_weights(model, tmp_path):
    save_segmenter(model, tmp_path, labels=LABELS)
    again = create_segmenter(model.config, pretrained=tmp_path, body=SHAPE)
    assert equal(again.state_dict(), model.state_dict())
    other = create_segmenter(model.config, pretrained=tmp_path, body=SHAPE, num_classes=9)
    assert other.config.num_classes == 9
    message = "unknown field of a segmentation network 'num_clases'; did you mean num_classes"
    with pytest.raises(ValueError, match=message):
        create_segmenter("upernet_convnext_tiny", num_clases=3)
    with pytest.raises(ValueError, match="unknown segmentation network 'upernet_convnext_tin'"):
        create_segmenter("upernet_convnext_tin")


def test_safetensors_without_card(model, tmp_path):
    save_file({k: t.contiguous() for k, t in official(model).items()}, tmp_path / "a.safetensors")
    loaded, info = load_segmenter(tmp_path / "a.safetensors")
    assert equal(loaded.state_dict(), model.state_dict())
    assert (info.preprocessing, info.labels) == (None, None)


def test_the_public_names():
    import convnext
    from convnext import weights

    for name in ("create_segmenter", "load_segmenter", "save_segmenter"):
        assert getattr(convnext, name) is getattr(weights, name)
    for name in weights.__all__:
        assert getattr(weights, name) is not None
