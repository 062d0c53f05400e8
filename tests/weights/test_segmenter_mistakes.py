"""What is refused of segmentation networks, and with what message."""

import json
from pathlib import Path

import pytest
import torch
from small_detectors import SHAPE, detector
from small_segmenters import segmenter

from convnext.models.registry import build_model
from convnext.weights import load_pretrained, save_pretrained
from convnext.weights.detection import is_detector, load_detector, save_detector
from convnext.weights.segmentation import (
    SegmenterPreprocessing,
    is_segmenter,
    load_segmenter,
    load_segmenter_weights,
    save_segmenter,
)
from convnext.weights.segmentation.layout import from_segmenter


@pytest.fixture
def model():
    return segmenter()


def official(model):
    return from_segmenter(model.state_dict(), "official", model.backbone.body.config)


def test_what_cannot_be_saved(model, tmp_path):
    with pytest.raises(ValueError, match="2 labels for a segmentation network with 3 classes"):
        save_segmenter(model, tmp_path, labels=["a", "b"])
    with pytest.raises(ValueError, match="save_segmenter writes segmentation networks of this"):
        save_segmenter(detector(), tmp_path)
    pre = SegmenterPreprocessing(mean=(0.5,), std=(0.5,))
    with pytest.raises(ValueError, match="preprocessing has 1 channels, the segmentation network"):
        save_segmenter(model, tmp_path, preprocessing=pre)
    with pytest.raises(ValueError, match="extra cannot be written as JSON"):
        save_segmenter(model, tmp_path, extra={"a": float("nan")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_size": -1}, "min_size -1 must be 0"),
        ({"min_size": 0, "max_size": 0}, "at most max_size 0"),
        ({"min_size": 900, "max_size": 800}, "at most max_size 800"),
        ({"window": -1}, "window -1 must be 0"),
        ({"stride": 0}, "stride 0 from 1 to the window"),
        ({"window": 64, "stride": 65}, "stride 65 from 1 to the window, or there are gaps"),
        ({"mean": (0.5,)}, "one value per channel each"),
        ({"std": (0.0, 1.0, 1.0)}, "must be positive"),
    ],
)
def test_preprocessing_out_of_range(values, message):
    with pytest.raises(ValueError, match=message):
        SegmenterPreprocessing(**values)


def test_preprocessing_of_the_whole_image():
    assert SegmenterPreprocessing(window=0).stride == 341
    assert SegmenterPreprocessing(min_size=0, max_size=1).min_size == 0


def test_each_loader_names_the_one_that_is_right(model, tmp_path):
    folders = segmenter_, detector_, classifier = [tmp_path / n for n in ("s", "d", "c")]
    save_segmenter(model, segmenter_)
    save_detector(detector(), detector_)
    save_pretrained(build_model("convnext_tiny", **SHAPE, num_classes=3), classifier)
    assert [is_segmenter(path) for path in folders] == [True, False, False]
    assert [is_detector(path) for path in folders] == [False, True, False]
    with pytest.raises(ValueError, match="a segmentation network, not a network that classifies"):
        load_pretrained(segmenter_)
    with pytest.raises(ValueError, match=r"not a detector; load it by convnext\.load_segmenter"):
        load_detector(segmenter_)
    with pytest.raises(ValueError, match=r"not a segmentation network; load it by .*load_detector"):
        load_segmenter(detector_)
    message = "holds no segmentation network: it has neither decode_head nor auxiliary_head"
    with pytest.raises(ValueError, match=f"{message}.*load_backbone_weights"):
        load_segmenter(classifier)


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
        ({"decode_head_conv_seg": None}, r"not a whole UPerNet: decode_head\.conv_seg\.weight"),
        ({"decode_head_bottleneck": None}, r"decode_head\.bottleneck\.conv\.weight is missing"),
        ({"decode_head": None}, r"not a whole UPerNet: decode_head\.conv_seg\.weight is missing"),
        ({"auxiliary_head_convs": None}, r"UPerNet: auxiliary_head\.convs\.0\.conv\.weight"),
        ({"auxiliary_head_conv_seg_weight": (5, 12, 1, 1)}, "heads have 3 and 5 classes"),
        ({"psp_modules_3": None}, r"pools to 3 scales, but pool_scales are \(1, 2, 3, 6\)"),
        ({"fpn_bottleneck_bn_bias": None}, r"missing: decode_head\.fpn_bottleneck\.bn\.bias"),
        ({"fpn_bottleneck_bn_bias": (6,)}, r"fpn_bottleneck\.bn\.bias \(6,\) in the file"),
        ({"backbone_norm1": None}, r"missing: backbone\.norm1\.weight"),
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
        load_segmenter(tmp_path / "a.pth")
    assert "a.pth" in str(error.value)


def test_heads_of_another_system(model, tmp_path):
    state = official(model)
    state |= {"auxiliary_head.convs.1.conv.weight": torch.zeros(12, 12, 3, 3)}
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(
        ValueError, match="auxiliary head has several convolutions; here it has one"
    ):
        load_segmenter(tmp_path / "a.pth")


def test_truncated_files(model, tmp_path):
    save_segmenter(model, tmp_path)
    torch.save(official(model), tmp_path / "a.pth")
    for path in (tmp_path / "a.pth", tmp_path / "model.safetensors"):
        path.write_bytes(path.read_bytes()[:9999])
        with pytest.raises(ValueError, match="damaged or truncated"):
            load_segmenter(path)


def test_another_network_than_the_one_that_is_there(model, tmp_path):
    save_segmenter(model, tmp_path)
    with pytest.raises(ValueError, match="another network, not on convnext_tiny"):
        load_segmenter_weights(segmenter(body={"dims": (8, 16, 24, 40)}), tmp_path)
    with pytest.raises(ValueError, match="another network, not on convnextv2_tiny"):
        load_segmenter_weights(segmenter("convnextv2_tiny"), tmp_path)
    with pytest.raises(ValueError, match=r"does not fit the network; mismatched: decode_head\."):
        load_segmenter_weights(segmenter(head_dim=8), tmp_path)
    with pytest.raises(ValueError, match=r"mismatched: decode_head\.bottleneck\.conv\.weight"):
        load_segmenter_weights(segmenter(pool_scales=(1, 2)), tmp_path)


def test_damaged_cards(model, tmp_path):
    save_segmenter(model, tmp_path)
    path = tmp_path / "config.json"
    whole = json.loads(path.read_text())
    for section, message in (
        ({"preprocessing": {"min_size": -1}}, "config.json is damaged: min_size -1"),
        ({"config": {"dropout": 2}}, r"config.json is damaged: dropout 2.0 must be at least 0"),
        ({"config": {"pool_scales": [1, 2]}}, r"pools to 4 scales, but pool_scales are \(1, 2\)"),
        ({"config": {"dropout": "much"}}, r"config.dropout is 'much'; expected float"),
        ({"config": []}, "config is list, not what is stored there"),
        ({"config": "no"}, "config.json is damaged: config is str"),
        ({"body": [1]}, "config.json is damaged: body is list"),
        ({"body": {"depths": "many"}}, r"config.json is damaged: body.depths is 'many'"),
        ({"labels": 3}, "config.json is damaged: labels is int"),
        ({"extra": [1]}, "config.json is damaged: extra is list"),
        ({"preprocessing": {"min_size": "x"}}, "config.json is damaged: min_size is 'x'"),
        ({"preprocessing": [3]}, r"config.json is damaged"),
        ({"config": {"head_dim": -3}}, "config.json is damaged: head_dim -3 must be at least 1"),
        ({"config": {"in_chans": "3"}}, "config.in_chans is '3'; expected int"),
        ({"config": {"backbone": ["a"]}}, r"config.backbone is \['a'\]; expected str"),
        ({"config": {"pool_scales": ["1", "2"]}}, "config.pool_scales is '1'; expected int"),
        ({"config": {"pool_scales": [1] * 10**6}}, "1000000 pool_scales; give at most 16"),
        ({"config": {"pool_scales": [1, 2, 3, 10**9]}}, "must be from 1 to 64 each"),
    ):
        path.write_text(json.dumps({**whole, "convnext": {**whole["convnext"], **section}}))
        with pytest.raises(ValueError, match=message):
            load_segmenter(tmp_path)
    for values in ({**whole, "convnext": 3}, {"model_type": "upernet", "id2label": [1]}):
        path.write_text(json.dumps(values))
        with pytest.raises(ValueError, match=r"config\.json is damaged"):
            load_segmenter(tmp_path)
    path.unlink()
    assert load_segmenter(tmp_path)[0].config == model.config  # the file has its own card


def test_files_with_code_in_them_are_refused(model, tmp_path):
    torch.save({"state_dict": official(model), "meta": Path.home}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="could run code"):
        load_segmenter(tmp_path / "a.pth")
