"""Key tables: every name there and back, and shapes that cannot be right."""

import pytest
import torch

from convnext.models.registry import build_model, list_models, model_config
from convnext.weights.architecture import infer_config, model_name
from convnext.weights.layouts.layout import Row, _fill, _match
from convnext.weights.layouts.table import LAYOUTS, from_convnext, to_convnext


@pytest.fixture(scope="module")
def states():
    """Names and shapes of every registered network; no memory is used."""
    with torch.device("meta"):
        return {name: build_model(name).state_dict() for name in list_models("convnext*")}


@pytest.mark.parametrize("name", list_models("convnext*"))
def test_every_network_is_told_by_its_tensors(name, states):
    config = infer_config(states[name])
    expected = model_config(name)
    for field in ("depths", "dims", "grn", "isotropic", "num_classes", "in_chans"):
        assert getattr(config, field) == getattr(expected, field)
    assert (config.layer_scale_init_value > 0) == (expected.layer_scale_init_value > 0)
    assert model_name(config) == name


@pytest.mark.parametrize("name", list_models("convnext*"))
def test_every_name_goes_to_each_layout_and_back(name, states):
    state = states[name]
    for layout in dict.fromkeys(layout.name for layout in LAYOUTS):
        if "isotropic" in name and layout not in ("convnext", "official"):
            continue
        if layout == "torchvision" and "v2" in name:
            continue
        there = from_convnext(state, layout)
        assert len(there) == len(state)
        found, converted = to_convnext(there)
        assert found.name == layout
        assert not converted.unexpected
        assert {k: v.shape for k, v in converted.state.items()} == {
            k: v.shape for k, v in state.items()
        }


def test_computed_numbers_in_names():
    template = "features.{2i+1}.{j}.*"
    assert _match(template, "features.7.12.bias") == {"i": "3", "j": "12", "leaf": "bias"}
    assert _match(template, "features.6.12.bias") is None
    assert _match("features.{2i}.0.*", "features.4.0.weight") == {"i": "2", "leaf": "weight"}
    assert _match("stages.{i}.x", "stages.01.x") is None
    assert _fill(template, {"i": "3", "j": "12", "leaf": "bias"}) == "features.7.12.bias"


def test_a_table_row_reads_as_it_is_written():
    row = Row("stages.{i}.blocks.{j}.gamma", "features.{2i+1}.{j}.layer_scale", (-1, 1, 1))
    values = _match(row.ours, "stages.2.blocks.8.gamma")
    assert _fill(row.theirs, values) == "features.5.8.layer_scale"


def test_impossible_shapes_are_named():
    state = dict(build_model("convnext_atto", depths=(1,) * 4, dims=(8, 8, 8, 8)).state_dict())
    for name, shape in (
        ("stages.0.blocks.0.pwconv1.weight", (32, 8, 3, 3)),
        ("stages.0.blocks.0.gamma", (2, 4)),
        ("stem.conv.weight", (8, 48)),
    ):
        with pytest.raises(ValueError, match=rf"{name} has shape .*axes"):
            to_convnext({**state, name: torch.zeros(shape)})


def test_sparse_kernels_of_impossible_size_are_named():
    state = from_convnext(
        build_model("convnextv2_atto", depths=(1,) * 4, dims=(8, 8, 8, 8)).state_dict(), "fcmae"
    )
    state["encoder.stages.0.0.dwconv.kernel"] = torch.zeros(48, 8)
    with pytest.raises(ValueError, match=r"dwconv\.kernel has shape \(48, 8\); expected"):
        to_convnext(state)


def test_two_tensors_for_one_place_are_refused():
    state = dict(build_model("convnext_atto", depths=(1,) * 4, dims=(8, 8, 8, 8)).state_dict())
    sparse = {f"encoder.{k}": v for k, v in from_convnext(state, "official").items()}
    sparse["encoder.downsample_layers.1.0.ln.weight"] = torch.ones(8)
    with pytest.raises(
        ValueError, match=r"two tensors are named stages\.1\.downsample\.norm\.weight"
    ):
        to_convnext(sparse)


def test_a_stem_of_unknown_size_is_refused():
    state = dict(build_model("convnext_atto", depths=(1,) * 4, dims=(8, 8, 8, 8)).state_dict())
    state["stem.conv.weight"] = torch.zeros(8, 3, 5, 5)
    with pytest.raises(ValueError, match=r"the stem has shape \(8, 3, 5, 5\)"):
        infer_config(state)
