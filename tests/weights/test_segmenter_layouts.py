"""Names of segmentation networks: the published ones in full, and every layout there and back."""

from pathlib import Path

import pytest
import torch
from small_detectors import BODIES, equal
from small_segmenters import segmenter

from convnext.models.upernet import UPerNet, segmenter_config
from convnext.weights.layouts.layout import Converted
from convnext.weights.segmentation.layout import SEGMENTER_LAYOUTS, from_segmenter, to_segmenter

KEYS = Path(__file__).parents[1] / "golden" / "upernet_tiny_keys.txt"


@pytest.fixture(scope="module")
def published():
    """Names and shapes of the published file for T."""
    found = {}
    for line in KEYS.read_text().splitlines():
        name, _, shape = line.partition(" ")
        found[name] = tuple(map(int, shape.split("x"))) if shape else ()
    return found


def on_meta(name):
    with torch.device("meta"):
        return UPerNet(segmenter_config(name))


def test_a_published_file_loads_strictly(published):
    tensors = {name: torch.empty(shape, device="meta") for name, shape in published.items()}
    layout, converted = to_segmenter(tensors)
    assert layout.name == "official"
    assert converted == Converted(converted.state)
    on_meta("upernet_convnext_tiny").load_state_dict(converted.state, assign=True)  # strict


def test_what_is_written_has_the_published_names(published):
    model = on_meta("upernet_convnext_tiny")
    state = from_segmenter(model.state_dict(), "official", model.backbone.body.config)
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == published


def test_published_numbers_of_tensors(published):
    assert len(published) == 268
    for size in ("small", "base", "large", "xlarge"):
        assert len(on_meta(f"upernet_convnext_{size}").state_dict()) == 268 + 18 * 9


def has_auxiliary(name):
    return name.startswith("auxiliary_head.")


@pytest.mark.parametrize("layout", SEGMENTER_LAYOUTS)
@pytest.mark.parametrize("aux_dim", [12, 0])
@pytest.mark.parametrize("backbone", BODIES)
def test_every_layout_there_and_back(backbone, aux_dim, layout):
    model = segmenter(backbone, aux_dim=aux_dim)
    state, body = model.state_dict(), model.backbone.body.config
    if layout not in ("convnext", "official") and not backbone.startswith("convnext"):
        message = rf"layout {layout} has no segmentation network with this body"
        with pytest.raises(ValueError, match=message):
            from_segmenter(state, layout, body)
        return
    there = from_segmenter(state, layout, body)
    found, converted = to_segmenter(there)
    assert found.name == layout
    assert converted.unexpected == converted.dropped == []
    if layout == "smp":  # which has no such head
        state = {name: tensor for name, tensor in state.items() if not has_auxiliary(name)}
    assert len(there) == len(state)
    assert equal(converted.state, state)


EXAMPLES = {
    "convnext": (
        "backbone.body.stages.2.blocks.1.pwconv1.weight",
        "backbone.norm2.weight",
        "decode_head.psp_modules.3.1.bn.running_var",
    ),
    "official": (
        "backbone.stages.2.1.pwconv1.weight",
        "backbone.norm2.weight",
        "decode_head.psp_modules.3.1.bn.running_var",
        "auxiliary_head.conv_seg.bias",
    ),
    "openmmlab": (
        "backbone.stages.2.1.pointwise_conv1.weight",
        "backbone.norm2.weight",
        "decode_head.lateral_convs.2.conv.weight",
    ),
    "timm": (
        "backbone.stages_2.blocks.1.mlp.fc1.weight",
        "backbone.norm2.weight",
        "decode_head.conv_seg.weight",
    ),
    "transformers": (
        "backbone.encoder.stages.2.layers.1.pwconv1.weight",
        "backbone.hidden_states_norms.stage3.weight",
        "decode_head.psp_modules.3.1.batch_norm.running_var",
        "auxiliary_head.convs.0.batch_norm.weight",
        "auxiliary_head.classifier.bias",
    ),
    "smp": (
        "encoder.model.stages_2.blocks.1.mlp.fc1.weight",
        "decoder.feature_norms.2.weight",
        "decoder.psp.blocks.3.1.1.running_var",
        "decoder.psp.out_conv.0.weight",
        "decoder.fpn_lateral_blocks.2.conv_norm_relu.0.weight",
        "decoder.fpn_conv_blocks.0.1.num_batches_tracked",
        "decoder.fusion_block.1.bias",
        "segmentation_head.0.bias",
    ),
}


@pytest.mark.parametrize("layout", EXAMPLES)
def test_names_by_example(layout):
    model = segmenter("convnextv2_tiny")
    names = from_segmenter(model.state_dict(), layout, model.backbone.body.config)
    assert set(EXAMPLES[layout]) <= names.keys()


def test_smp_counts_from_the_deepest_map():
    model = segmenter()
    state = from_segmenter(model.state_dict(), "smp", model.backbone.body.config)
    head = model.decode_head
    for i in range(3):
        lateral = state[f"decoder.fpn_lateral_blocks.{i}.conv_norm_relu.0.weight"]
        assert torch.equal(lateral, head.lateral_convs[2 - i].conv.weight)
        smooth = state[f"decoder.fpn_conv_blocks.{i}.0.weight"]
        assert torch.equal(smooth, head.fpn_convs[2 - i].conv.weight)


@pytest.mark.parametrize("layout", ["timm", "smp"])
def test_pointwise_layers_that_timm_builds_as_convolutions(layout):
    """Of the networks up to nano, whose shapes their names tell."""
    with torch.device("meta"):
        model = UPerNet(segmenter_config("upernet_convnextv2_atto"))
    state = from_segmenter(model.state_dict(), layout, model.backbone.body.config)
    pointwise = [t for name, t in state.items() if ".mlp.fc1.weight" in name]
    assert {t.ndim for t in pointwise} == {4}
    _, converted = to_segmenter(state)
    assert converted.state.keys() == {
        name for name in model.state_dict() if layout == "timm" or not has_auxiliary(name)
    }


def test_strangers_are_named():
    model = segmenter()
    state = from_segmenter(model.state_dict(), "official", model.backbone.body.config)
    more = ["decode_head.sem_seg.weight", "neck.conv.weight", "backbone.cls_token"]
    _, converted = to_segmenter({**state, **{name: torch.ones(8) for name in more}})
    assert sorted(converted.unexpected) == sorted(more)


def test_mistakes():
    model = segmenter()
    state, body = model.state_dict(), model.backbone.body.config
    with pytest.raises(ValueError, match="unknown layout of a segmentation network 'torchvision'"):
        from_segmenter(state, "torchvision", body)
    with pytest.raises(ValueError, match="no body of another library"):
        from_segmenter(state, "official", None)
    heads = {name: tensor for name, tensor in state.items() if not name.startswith("backbone.")}
    with pytest.raises(ValueError, match="backbone of this segmentation network: not a ConvNeXt"):
        to_segmenter({"backbone.layer1.0.conv1.weight": torch.ones(1), **heads})
    both = segmenter("convnextv2_tiny", body={"layer_scale_init_value": 0.1})
    with pytest.raises(ValueError, match="both GRN and layer scale"):
        from_segmenter(both.state_dict(), "transformers", both.backbone.body.config)
