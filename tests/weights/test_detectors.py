"""Detectors saved, loaded, converted and inspected; and what is refused, with what message."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_detectors import BODIES, SHAPE, WIDTHS, detector, equal

from convnext.models.large_kernel import merge
from convnext.models.mask_rcnn import MaskRCNN, MaskRCNNConfig
from convnext.models.registry import build_model
from convnext.weights import convert, inspect, load_pretrained, save_pretrained
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


def test_the_name_is_found_out(tmp_path):
    with torch.device("meta"):
        model = create_detector("cascade_mask_rcnn_convnext_tiny", num_classes=2)
    assert save_and_name(model.to_empty(device="cpu"), tmp_path) == (
        "cascade_mask_rcnn_convnext_tiny"
    )
    assert save_and_name(detector(), tmp_path) is None


def save_and_name(model, folder):
    save_detector(model, folder)
    return load_detector(folder)[1].name


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


# ---- mistakes


def test_what_cannot_be_saved(model, tmp_path):
    with pytest.raises(ValueError, match="2 labels for a detector with 3 classes"):
        save_detector(model, tmp_path, labels=["a", "b"])
    with pytest.raises(ValueError, match="writes detectors of this package, not Linear"):
        save_detector(torch.nn.Linear(2, 2), tmp_path)
    pre = DetectorPreprocessing(mean=(0.5,), std=(0.5,))
    with pytest.raises(ValueError, match="preprocessing has 1 channels, the detector has 3"):
        save_detector(model, tmp_path, preprocessing=pre)
    with pytest.raises(ValueError, match="extra cannot be written as JSON"):
        save_detector(model, tmp_path, extra={"a": float("nan")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_size": 0}, "min_size 0 must be at least 1"),
        ({"min_size": 900, "max_size": 800}, "at most max_size 800"),
        ({"mean": (0.5,)}, "one value per channel each"),
        ({"std": (0.0, 1.0, 1.0)}, "must be positive"),
    ],
)
def test_preprocessing_out_of_range(values, message):
    with pytest.raises(ValueError, match=message):
        DetectorPreprocessing(**values)


def test_a_classifier_is_no_detector_and_the_reverse(model, tmp_path):
    save_detector(model, tmp_path / "detector")
    network = build_model("convnext_tiny", **SHAPE, num_classes=3)
    save_pretrained(network, tmp_path / "classifier")
    assert (is_detector(tmp_path / "detector"), is_detector(tmp_path / "classifier")) == (True, 0)
    with pytest.raises(ValueError, match="holds a detector, not a network that classifies"):
        load_pretrained(tmp_path / "detector")
    with pytest.raises(ValueError, match="holds no detector: it has neither rpn_head nor roi_head"):
        load_detector(tmp_path / "classifier")


def changed(model, **changes):
    """The official state with tensors replaced by zeros of another shape, or left out."""
    state = official(model)
    for name, shape in changes.items():
        found = [key for key in state if name in key.replace(".", "_")]
        assert found
        for key in found:
            if shape is None:
                del state[key]
            else:
                state[key] = torch.zeros(shape)
    return state


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fc_cls_weight": None}, r"not a whole detector: roi_head\.bbox_head\.fc_cls\.weight"),
        ({"neck": None}, r"not a whole detector: neck\.lateral_convs\.0\.conv\.weight"),
        ({"fc_reg_weight": (4, 24)}, "3 classes and 4 deltas; .* a box for each class"),
        ({"rpn_cls_weight": (9, 16, 1, 1)}, "9 anchors at each place; detectors here have 3"),
        ({"rpn_reg": None}, r"missing: rpn_head\.rpn_reg\.weight"),
        ({"rpn_reg_bias": (6,)}, r"mismatched: rpn_head\.rpn_reg\.bias \(6,\) in the file"),
        (
            {"backbone_stages_1": None},
            r"not a whole ConvNeXt: stages\.1\.blocks\.0\.dwconv\.weight",
        ),
        ({"backbone_downsample_layers_0_0": None}, "stem or all blocks are missing"),
    ],
)
def test_files_that_are_not_whole(model, changes, message, tmp_path):
    torch.save(changed(model, **changes), tmp_path / "a.pth")
    with pytest.raises(ValueError, match=message) as error:
        load_detector(tmp_path / "a.pth")
    assert "a.pth" in str(error.value)


def test_a_cascade_of_two_stages_is_refused(tmp_path):
    state = official(detector(cascade=True))
    state = {name: t for name, t in state.items() if "_head.2." not in name}
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="cascade of 2 stages; cascades here have 3"):
        load_detector(tmp_path / "a.pth")


def test_another_size_than_the_detector_that_is_there(model, tmp_path):
    save_detector(model, tmp_path)
    with pytest.raises(ValueError, match="another network, not on convnext_tiny"):
        load_detector_weights(detector(body={"dims": (8, 16, 24, 40)}), tmp_path)
    with pytest.raises(ValueError, match="another network, not on convnextv2_tiny"):
        load_detector_weights(detector("convnextv2_tiny"), tmp_path)
    with pytest.raises(ValueError, match=r"does not fit the network; mismatched: neck\."):
        load_detector_weights(detector(fpn_dim=8), tmp_path)
    with pytest.raises(ValueError, match=r"missing: roi_head\.bbox_head\.0\."):
        load_detector_weights(detector(cascade=True), tmp_path)


def test_damaged_cards(model, tmp_path):
    save_detector(model, tmp_path)
    path = tmp_path / "config.json"
    whole = json.loads(path.read_text())
    for section, message in (
        ({"preprocessing": {"min_size": -1}}, "config.json is damaged: min_size -1"),
        ({"config": {"score_threshold": 2}}, "score_threshold 2 must be in"),
        ({"config": {"rpn_sampled": "many"}}, "configuration stored with it is wrong"),
    ):
        path.write_text(json.dumps({**whole, "convnext": {**whole["convnext"], **section}}))
        with pytest.raises(ValueError, match=message):
            load_detector(tmp_path)
    path.write_text(json.dumps({**whole, "convnext": 3}))
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        load_detector(tmp_path)
    path.unlink()
    assert load_detector(tmp_path)[0].config == model.config  # the file has its own card


def test_files_with_code_in_them_are_refused(model, tmp_path):
    torch.save({"state_dict": official(model), "meta": Path.home}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="could run code"):
        load_detector(tmp_path / "a.pth")


def test_safetensors_without_card(model, tmp_path):
    save_file({k: t.contiguous() for k, t in official(model).items()}, tmp_path / "a.safetensors")
    loaded, info = load_detector(tmp_path / "a.safetensors")
    assert equal(loaded.state_dict(), model.state_dict())
    assert (info.preprocessing, info.labels) == (None, None)
