"""What is refused of detectors, and with what message."""

import json
from pathlib import Path

import pytest
import torch
from small_detectors import SHAPE, detector

from convnext.models.registry import build_model
from convnext.weights import load_pretrained, save_pretrained
from convnext.weights.detection import (
    DetectorPreprocessing,
    is_detector,
    load_detector,
    load_detector_weights,
    save_detector,
)
from convnext.weights.detection.layout import from_detector


@pytest.fixture
def model():
    return detector()


def official(model):
    return from_detector(model.state_dict(), "official", model.backbone.body.config)


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
        ({"config": {"score_threshold": 2}}, "score_threshold 2.0 must be in"),
        ({"config": {"rpn_sampled": "many"}}, "config.rpn_sampled is 'many'; expected int"),
        ({"config": []}, "config.json is damaged: config is list"),
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
