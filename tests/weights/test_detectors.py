"""Detectors saved, loaded, converted and inspected; and what is refused, with what message."""

import json
import sys
import types
import zipfile
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_detectors import BODIES, SHAPE, WIDTHS, detector, equal

from convnext.models.large_kernel import merge
from convnext.models.mask_rcnn import MaskRCNN, MaskRCNNConfig
from convnext.models.registry import build_model, model_config
from convnext.weights import convert, inspect, merge_weights
from convnext.weights.detection import (
    PREDICTORS,
    DetectorPreprocessing,
    create_detector,
    is_detector,
    load_detector,
    load_detector_weights,
    save_detector,
)
from convnext.weights.detection.layout import DETECTOR_LAYOUTS, from_detector
from convnext.weights.detection.system import detector_name
from convnext.weights.reading import read_file

LABELS = ("a", "ä b", "c")


@pytest.fixture
def model():
    return detector()


def official(model, layout="official"):
    return from_detector(model.state_dict(), layout, model.backbone.body.config)


def test_everything_comes_back(model, tmp_path):
    preprocessing = DetectorPreprocessing(
        min_size=320, max_size=640, mean=(0.5,) * 3, std=(0.2,) * 3
    )
    folder = save_detector(
        model,
        tmp_path / "deep" / "folder",
        labels=LABELS,
        preprocessing=preprocessing,
        name="my_detector",
        licence="CC0",
        extra={"box_ap": 41.5},
    )
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    for source in (folder, folder / "model.safetensors"):
        loaded, info = load_detector(source)
        assert equal(loaded.state_dict(), model.state_dict())
        assert loaded.config == model.config
        assert (info.labels, info.preprocessing) == (LABELS, preprocessing)
        assert (info.name, info.licence) == ("my_detector", "CC0")
        assert info.extra == {"box_ap": 41.5}
        assert len(info.report.matched) == len(model.state_dict())


UNTOLD = {
    "anchor_scale": 4.0,
    "rpn_per_level": (300, 200),
    "rpn_proposals": (100, 60),
    "rpn_sampled": 32,
    "roi_sampled": 64,
    "score_threshold": 0.2,
    "max_detections": 10,
    "soft_nms": True,
}


@pytest.mark.parametrize("cascade", [False, True])
@pytest.mark.parametrize("backbone", BODIES)
def test_every_kind_of_body_with_all_settings(backbone, cascade, tmp_path):
    model = detector(backbone, cascade=cascade, in_chans=1, masks=not cascade, **UNTOLD)
    loaded, info = load_detector(save_detector(model, tmp_path))
    assert equal(loaded.state_dict(), model.state_dict())
    assert loaded.config == model.config
    assert loaded.backbone.body.config == model.backbone.body.config
    assert info.report.missing == info.report.unexpected == []


@pytest.mark.parametrize("backbone", ["slak_tiny", "replknet_31b"])
def test_merged_bodies(backbone, tmp_path):
    """Networks without a published name in this form are stored under ours."""
    model = detector(backbone)
    merged = MaskRCNN(model.config, merge(model.backbone.body))
    loaded, _ = load_detector(save_detector(merged, tmp_path))
    assert loaded.backbone.body.config.merged
    assert equal(loaded.state_dict(), merged.state_dict())


@pytest.mark.parametrize("backbone", ["slak_tiny", "replknet_31b"])
def test_merging_a_file_keeps_the_function(backbone, tmp_path):
    model = detector(backbone)
    save_detector(model, tmp_path / "a", labels=LABELS)
    merged, info = load_detector(merge_weights(tmp_path / "a", tmp_path / "b"))
    assert info.labels == LABELS
    assert merged.backbone.body.config.merged
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        found, expected = merged.eval().dense(x), model.dense(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="has no branches to merge, or is merged already"):
        merge_weights(tmp_path / "b", tmp_path / "c")


def test_bodies_that_only_this_package_has(tmp_path):
    body = build_model(
        "roadmap_t_depthwise", features_only=True, num_classes=0, depths=(1,) * 4, width=8
    )
    model = MaskRCNN(MaskRCNNConfig(backbone="roadmap_t_depthwise", **WIDTHS), body)
    loaded, _ = load_detector(save_detector(model, tmp_path))
    assert equal(loaded.state_dict(), model.state_dict())
    with pytest.raises(ValueError, match="layout official has no detector with this body"):
        convert(tmp_path, tmp_path / "a.pth", "official")


def test_bodies_of_timm(tmp_path):
    model = create_detector("mask_rcnn_timm:resnet10t", in_chans=2, **WIDTHS)
    loaded, info = load_detector(save_detector(model, tmp_path))
    assert equal(loaded.state_dict(), model.state_dict())
    assert loaded.config == model.config
    assert "timm:resnet10t" in str(inspect(tmp_path))
    assert info.report.layout.startswith("convnext")
    with pytest.raises(ValueError, match="no body of another library"):
        convert(tmp_path, tmp_path / "a.pth", "official")


def test_the_name_is_found_out():
    for cascade, name in enumerate(("mask_rcnn_slak_tiny", "cascade_mask_rcnn_slak_tiny")):
        config = MaskRCNNConfig(backbone="slak_tiny", cascade=bool(cascade), num_classes=2)
        assert detector_name(config, model_config("slak_tiny")) == name
        assert detector_name(replace(config, fc_dim=64), model_config("slak_tiny")) is None
        assert detector_name(config, model_config("convnext_tiny")) is None


def test_wrapped_detectors_are_saved_bare(model, tmp_path):
    save_detector(torch.nn.DataParallel(torch.compile(model)), tmp_path)
    assert equal(load_detector(tmp_path)[0].state_dict(), model.state_dict())


def test_labels_edited_by_hand_count(model, tmp_path):
    save_detector(model, tmp_path, labels=LABELS)
    config = json.loads((tmp_path / "config.json").read_text())
    config["label_names"] = ["x", "y", "z"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_detector(tmp_path)[1].labels == ("x", "y", "z")


def test_the_folder_of_a_run(model, tmp_path):
    save_detector(model, tmp_path / "weights", labels=LABELS)
    assert is_detector(tmp_path)
    assert load_detector(tmp_path)[1].labels == LABELS


# How training programs wrap the weights, and where they put the names of the classes.
META = {"epoch": 36, "iter": 1, "config": "model = dict()", "mmdet_version": "2.11.0"}
WRAPPED = {
    "bare": lambda state: state,
    "mmcv": lambda state: {"meta": {**META, "CLASSES": LABELS}, "state_dict": state},
    "optimizer": lambda state: {"meta": META, "state_dict": state, "optimizer": {"state": {}}},
    "a run": lambda state: {
        "task": {f"network.{k}": t for k, t in state.items()},
        "recipe": {"seed": 1},
    },
    "distributed": lambda state: {"state_dict": {f"module.{k}": t for k, t in state.items()}},
    "mmengine": lambda state: {
        "meta": {"dataset_meta": {"classes": LABELS, "palette": [(1, 2, 3)]}},
        "state_dict": state,
    },
    "averaged": lambda state: {
        "state_dict": {k: t + 1 for k, t in state.items()},
        "ema_state_dict": {
            "steps": torch.tensor(9),
            **{f"module.{k}": t for k, t in state.items()},
        },
    },
}


@pytest.mark.parametrize("layout", DETECTOR_LAYOUTS)
@pytest.mark.parametrize("wrapping", WRAPPED)
def test_files_of_training_programs(wrapping, layout, tmp_path):
    model = detector("convnextv2_tiny", cascade=True)
    torch.save(WRAPPED[wrapping](official(model, layout)), tmp_path / "a.pth")
    loaded, info = load_detector(tmp_path / "a.pth")
    assert equal(loaded.state_dict(), model.state_dict())
    assert info.report.layout.startswith(layout)
    assert info.labels == (LABELS if wrapping in ("mmcv", "mmengine") else None)


def test_plain_instead_of_averaged_weights(model, tmp_path):
    torch.save(WRAPPED["averaged"](official(model)), tmp_path / "a.pth")
    loaded, _ = load_detector(tmp_path / "a.pth", ema=False)
    assert torch.equal(loaded.rpn_head.rpn_cls.bias, model.rpn_head.rpn_cls.bias + 1)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_conversion_through_all_layouts(model, suffix, tmp_path):
    source = save_detector(model, tmp_path / "first", labels=LABELS, licence="CC0")
    for layout in (*DETECTOR_LAYOUTS, "convnext"):
        target = tmp_path / f"{layout}{suffix}"
        assert convert(source, target, layout) == target
        source = target
        assert inspect(target).layout.startswith(layout)
    loaded, info = load_detector(source)
    assert equal(loaded.state_dict(), model.state_dict())
    assert info.licence == (None if suffix == ".pth" else "CC0")


def test_names_of_classes_stand_where_others_look_for_them(model, tmp_path):
    source = save_detector(model, tmp_path / "first", labels=LABELS)
    metas = {"CLASSES": list(LABELS)}, {"dataset_meta": {"classes": list(LABELS)}}
    for layout, meta in zip(("official", "openmmlab"), metas, strict=True):
        target = convert(source, tmp_path / f"{layout}.pth", layout)
        content = torch.load(target, weights_only=True)
        assert content["meta"] == meta
        assert content["state_dict"].keys() == official(model, layout).keys()
        assert load_detector(target)[1].labels == LABELS


def test_conversion_to_a_folder(model, tmp_path):
    content = WRAPPED["mmcv"](official(model, "openmmlab"))
    torch.save(content, tmp_path / "a.pth")
    loaded, info = load_detector(convert(tmp_path / "a.pth", tmp_path / "folder", "convnext"))
    assert equal(loaded.state_dict(), model.state_dict())
    assert info.labels == LABELS
    with pytest.raises(ValueError, match="folders are for convnext"):
        convert(tmp_path / "folder", tmp_path / "other", "timm")
    with pytest.raises(ValueError, match=r"unknown ending '\.onnx'"):
        convert(tmp_path / "folder", tmp_path / "a.onnx", "official")


def test_conversion_loses_nothing_in_silence(model, tmp_path):
    more = {"backbone.cls_token": torch.ones(1)}
    torch.save({**official(model), **more}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"not part of a ConvNeXt: backbone\.cls_token"):
        convert(tmp_path / "a.pth", tmp_path / "b.pth", "official")
    convert(tmp_path / "a.pth", tmp_path / "b.pth", "official", allow=["*.cls_token"])
    assert not load_detector(tmp_path / "b.pth")[1].report.unexpected
    with pytest.raises(ValueError, match=r"unexpected: backbone\.cls_token"):
        load_detector(tmp_path / "a.pth")


def test_inspection(tmp_path):
    model = detector("convnextv2_tiny", cascade=True, in_chans=1, masks=False)
    torch.save({"meta": {"CLASSES": LABELS}, "state_dict": official(model)}, tmp_path / "a.pth")
    text = str(inspect(tmp_path / "a.pth"))
    for part in (
        "official (V1 or V2)",
        "no named network has these blocks",
        "Cascade Mask R-CNN of 16 channels, linear layers of 24, no masks",
        f"{sum(p.numel() for p in model.parameters()):,} (float32)",
        "classes     3",
        "channels    1",
        "state_dict",
        "a, ä b, c",
        "meta",
    ):
        assert part in text


# ---- another number of classes, other channels, without masks


def test_another_number_of_classes_starts_new_predictors(model, tmp_path):
    save_detector(model, tmp_path, labels=LABELS)
    loaded, info = load_detector(tmp_path, num_classes=5)
    assert info.labels is None
    own, old = loaded.state_dict(), model.state_dict()
    new = {name for name in own if own[name].shape != old[name].shape}
    assert new == set(info.report.missing)
    assert {name.split(".")[-2] for name in new} == {"fc_cls", "fc_reg", "conv_logits"}
    assert all(torch.equal(own[name], old[name]) for name in own if name not in new)
    assert "predictors are new (5 classes; file: 3)" in str(info.report)
    same, info = load_detector(tmp_path, num_classes=3)
    assert equal(same.state_dict(), old)
    assert info.labels == LABELS


def test_into_a_detector_with_another_number_of_classes(model, tmp_path):
    save_detector(model, tmp_path)
    other = detector(num_classes=5)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(ValueError, match=r"detects 3 classes, this detector 5: .*allow=PREDICTORS"):
        load_detector_weights(other, tmp_path)
    assert equal(other.state_dict(), before)
    load_detector_weights(other, tmp_path, allow=PREDICTORS)
    assert torch.equal(other.rpn_head.rpn_cls.weight, model.rpn_head.rpn_cls.weight)
    name = "roi_head.bbox_head.fc_cls.weight"
    assert torch.equal(other.state_dict()[name], before[name])


def test_other_channels_adapt_the_stem(model, tmp_path):
    save_detector(model, tmp_path)
    loaded, info = load_detector(tmp_path, in_chans=1)
    stem = loaded.backbone.body.stem.conv.weight
    torch.testing.assert_close(stem, model.backbone.body.stem.conv.weight.sum(1, keepdim=True))
    assert "from 3 to 1 input channels" in str(info.report)


def test_without_masks_and_with_new_ones(model, tmp_path):
    save_detector(model, tmp_path / "a")
    loaded, info = load_detector(tmp_path / "a", masks=False)
    assert not hasattr(loaded.roi_head, "mask_head")
    assert "mask heads left out" in str(info.report)
    save_detector(loaded, tmp_path / "b")
    again, info = load_detector(tmp_path / "b", masks=True)
    assert again.config.masks
    assert all("mask_head" in name for name in info.report.missing)


def test_settings_that_no_shape_tells_can_be_changed(model, tmp_path):
    save_detector(model, tmp_path)
    loaded, _ = load_detector(tmp_path, score_threshold=0.3, drop_path_rate=0.1)
    assert loaded.config.score_threshold == 0.3
    assert loaded.backbone.body.config.drop_path_rate == 0.1


def test_create_with_weights(model, tmp_path):
    save_detector(model, tmp_path, labels=LABELS)
    again = create_detector(model.config, pretrained=tmp_path, body=SHAPE)
    assert equal(again.state_dict(), model.state_dict())
    other = create_detector(model.config, pretrained=tmp_path, body=SHAPE, num_classes=9)
    assert other.config.num_classes == 9
    with pytest.raises(ValueError, match="unknown field of a detector 'num_clases'; did you mean"):
        create_detector("mask_rcnn_convnext_tiny", num_clases=3)


# ---- what else training programs put into files


class HistoryBuffer:
    """As the one of OpenMMLab's training programs: arrays, and methods by name."""

    statistics: ClassVar[dict] = {}

    def __init__(self):
        self.log_history, self.count_history = np.array([1.0, 2.0]), np.array([1, 2])

    def largest(self):
        return self.log_history.max()

    def __getstate__(self):
        return {**vars(self), "statistics_methods": {"max": HistoryBuffer.largest}}


def test_checkpoints_of_mmengine_with_histories(model, tmp_path, monkeypatch):
    name = "mmengine.logging.history_buffer"
    for part in ("mmengine", "mmengine.logging", name):
        monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
    monkeypatch.setattr(HistoryBuffer, "__module__", name)
    monkeypatch.setattr(sys.modules[name], "HistoryBuffer", HistoryBuffer, raising=False)
    content = WRAPPED["mmengine"](official(model, "openmmlab"))
    content["meta"]["best"] = np.float64(0.4)
    hub = {"log_scalars": {"train/loss": HistoryBuffer()}, "resumed_keys": {}}
    torch.save({**content, "message_hub": hub}, tmp_path / "epoch_12.pth")
    loaded, info = load_detector(tmp_path / "epoch_12.pth")
    assert equal(loaded.state_dict(), model.state_dict())
    assert info.labels == LABELS
    assert b"HistoryBuffer" in (tmp_path / "epoch_12.pth").read_bytes()


def test_getattr_in_a_file_gets_nothing(tmp_path):
    """It has a stand-in because those histories name it; it must reach no attribute."""
    program = b"\x80\x02c__builtin__\ngetattr\nc__builtin__\nset\nX\x03\x00\x00\x00pop\x86R."
    torch.save({"a": 1}, tmp_path / "a.pth")
    with (
        zipfile.ZipFile(tmp_path / "a.pth") as source,
        zipfile.ZipFile(tmp_path / "b.pth", "w") as target,
    ):
        for entry in source.namelist():
            data = program if entry.endswith("data.pkl") else source.read(entry)
            target.writestr(entry, data)
    content, _ = read_file(tmp_path / "b.pth")
    assert type(content).__name__ == "_StandIn"


def test_safetensors_without_card(model, tmp_path):
    save_file({k: t.contiguous() for k, t in official(model).items()}, tmp_path / "a.safetensors")
    loaded, info = load_detector(tmp_path / "a.safetensors")
    assert equal(loaded.state_dict(), model.state_dict())
    assert (info.preprocessing, info.labels) == (None, None)
