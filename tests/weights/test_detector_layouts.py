"""Names of detectors: the published ones in full, and every layout there and back."""

from pathlib import Path

import pytest
import torch
from small_detectors import BODIES, detector, equal

from convnext.models.mask_rcnn import MaskRCNN, detector_config
from convnext.weights.detection.layout import (
    DETECTOR_LAYOUTS,
    from_detector,
    split,
    to_detector,
)
from convnext.weights.layouts.layout import Converted

GOLDEN = Path(__file__).parents[1] / "golden"
SYSTEMS = ("mask_rcnn", "cascade_mask_rcnn")


def published(system):
    """Names and shapes of the published file for T."""
    lines = (GOLDEN / f"{system}_tiny_keys.txt").read_text().splitlines()
    found = {}
    for line in lines:
        name, _, shape = line.partition(" ")
        found[name] = tuple(map(int, shape.split("x"))) if shape else ()
    return found


@pytest.fixture(scope="module", params=SYSTEMS)
def tiny(request):
    """The detector on T, without memory, and the published names."""
    with torch.device("meta"):
        model = MaskRCNN(detector_config(f"{request.param}_convnext_tiny"))
    return model, published(request.param)


def shapes(state):
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def test_a_published_file_loads_strictly(tiny):
    model, names = tiny
    tensors = {name: torch.empty(shape, device="meta") for name, shape in names.items()}
    layout, converted = to_detector(split(tensors))
    assert layout.name == "official"
    assert converted == Converted(converted.state)
    model.load_state_dict(converted.state, assign=True)  # strict


def test_what_is_written_has_the_published_names(tiny):
    model, names = tiny
    body = model.backbone.body.config
    assert shapes(from_detector(model.state_dict(), "official", body)) == names


def test_published_numbers_of_tensors():
    assert [len(published(system)) for system in SYSTEMS] == [228, 334]
    for system, more in zip(SYSTEMS, (162, 162), strict=True):
        with torch.device("meta"):
            base = MaskRCNN(detector_config(f"{system}_convnext_base")).state_dict()
        assert len(base) == len(published(system)) + more


@pytest.mark.parametrize("layout", DETECTOR_LAYOUTS)
@pytest.mark.parametrize("cascade", [False, True])
@pytest.mark.parametrize("backbone", BODIES)
def test_every_layout_there_and_back(backbone, cascade, layout):
    model = detector(backbone, cascade=cascade)
    state, body = model.state_dict(), model.backbone.body.config
    if layout not in ("convnext", "official") and not backbone.startswith("convnext"):
        with pytest.raises(ValueError, match=rf"layout {layout} has no detector with this body"):
            from_detector(state, layout, body)
        return
    there = from_detector(state, layout, body)
    assert len(there) == len(state)
    found, converted = to_detector(split(there))
    assert found.name == layout
    assert converted.unexpected == converted.dropped == []
    assert equal(converted.state, state)


EXAMPLES = {
    "official": ("stages.2.1.pwconv1.weight", "downsample_layers.3.1.bias", "norm2.weight"),
    "openmmlab": ("stages.2.1.pointwise_conv1.weight", "downsample_layers.3.1.bias", "norm2.bias"),
    "timm": ("stages_2.blocks.1.mlp.fc1.weight", "stages_3.downsample.1.bias", "norm2.weight"),
    "transformers": (
        "encoder.stages.2.layers.1.pwconv1.weight",
        "encoder.stages.3.downsampling_layer.1.bias",
        "hidden_states_norms.stage3.weight",
    ),
    "convnext": (
        "body.stages.2.blocks.1.pwconv1.weight",
        "body.stages.3.downsample.conv.bias",
        "norm2.weight",
    ),
}


@pytest.mark.parametrize("layout", EXAMPLES)
def test_names_by_example(layout):
    model = detector("convnextv2_tiny")
    names = from_detector(model.state_dict(), layout, model.backbone.body.config)
    assert {f"backbone.{name}" for name in EXAMPLES[layout]} <= names.keys()
    heads = {name for name in names if not name.startswith("backbone.")}
    assert heads == {n for n in model.state_dict() if not n.startswith("backbone.")}


def test_grn_has_the_shape_of_each_layout():
    model = detector("convnextv2_tiny")
    state, body = model.state_dict(), model.backbone.body.config
    names = {
        "official": ("stages.0.0.grn.gamma", (1, 1, 1, 32)),
        "openmmlab": ("stages.0.0.grn.gamma", (32,)),
        "timm": ("stages_0.blocks.0.mlp.grn.weight", (32,)),
        "transformers": ("encoder.stages.0.layers.0.grn.weight", (1, 1, 1, 32)),
    }
    for layout, (name, shape) in names.items():
        assert from_detector(state, layout, body)[f"backbone.{name}"].shape == shape


@pytest.mark.parametrize("between", ["body.", "timm_model.", "model."])
def test_bodies_inside_wrappers(between):
    model = detector()
    state = from_detector(model.state_dict(), "timm", model.backbone.body.config)
    wrapped = {
        name.replace("backbone.", f"backbone.{between}", 1) if "backbone.st" in name else name: t
        for name, t in state.items()
    }
    layout, converted = to_detector(split(wrapped))
    assert layout.name == "timm"
    assert equal(converted.state, model.state_dict())


def test_averages_of_older_files_are_left_out_and_strangers_named():
    model = detector()
    state = from_detector(model.state_dict(), "official", model.backbone.body.config)
    more = {"ema_backbone_norm0_weight": torch.ones(8), "decode_head.conv.weight": torch.ones(8)}
    _, converted = to_detector(split({**state, **more, "backbone.cls_token": torch.ones(8)}))
    assert converted.dropped == ["ema_backbone_norm0_weight"]
    assert converted.unexpected == ["backbone.cls_token", "decode_head.conv.weight"]


def test_pointwise_convolutions_become_linear_layers():
    """OpenMMLab's bodies may have them as 1x1 convolutions."""
    model = detector()
    state = from_detector(model.state_dict(), "openmmlab", model.backbone.body.config)
    state = {n: t[:, :, None, None] if "pointwise" in n and t.ndim == 2 else t
             for n, t in state.items()}  # fmt: skip
    _, converted = to_detector(split(state))
    assert len(converted.reshaped) == 10
    assert all(name.startswith("backbone.stages.") for name in converted.reshaped)
    assert equal(converted.state, model.state_dict())


def test_mistakes():
    model = detector()
    state, body = model.state_dict(), model.backbone.body.config
    with pytest.raises(ValueError, match="unknown layout of a detector 'torchvision'"):
        from_detector(state, "torchvision", body)
    with pytest.raises(ValueError, match="no body of another library"):
        from_detector(state, "official", None)
    with pytest.raises(ValueError, match="the backbone of this detector: not a ConvNeXt"):
        to_detector(split({"backbone.layer1.0.conv1.weight": torch.ones(1), **heads(state)}))
    both = detector("convnextv2_tiny", body={"layer_scale_init_value": 0.1})
    with pytest.raises(ValueError, match="both GRN and layer scale"):
        from_detector(both.state_dict(), "transformers", both.backbone.body.config)


def heads(state):
    return {name: tensor for name, tensor in state.items() if not name.startswith("backbone.")}
