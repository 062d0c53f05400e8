"""Networks whose layers were changed after they were built: refused, by name."""

import copy
import re

import pytest
import torch
from torch import nn

from convnext.deploy.fused import optimize
from convnext.layers.depthwise import DepthwiseConv2d
from convnext.models.convnext import Block
from convnext.models.registry import build_model
from convnext.run.engines import running


def network(**args):
    return build_model("convnext_atto", depths=(1, 2), dims=(24, 40), **args).eval()


def other_block(block):
    block.forward = lambda x: x


CHANGES = {
    "dilation": (
        "stages.0.blocks.0.dwconv has dilation",
        lambda m: setattr(m.stages[0].blocks[0], "dwconv", dilated()),
    ),
    "reflect": (
        "stages.1.blocks.0.dwconv has padding_mode reflect",
        lambda m: setattr(m.stages[1].blocks[0].dwconv, "padding_mode", "reflect"),
    ),
    "stride": (
        r"stem.conv has stride \(4, 2\)",
        lambda m: setattr(m.stem.conv, "stride", (4, 2)),
    ),
    "5x5": (
        r"stages.0.blocks.0.dwconv has kernel_size \(5, 5\)",
        lambda m: setattr(m.stages[0].blocks[0], "dwconv", DepthwiseConv2d(24, 5)),
    ),
    "4x2": (
        r"stem.conv has kernel_size \(4, 2\)",
        lambda m: setattr(m.stem, "conv", nn.Conv2d(3, 24, (4, 2), 4)),
    ),
    "no bias": ("stem.conv has weight", lambda m: setattr(m.stem.conv, "bias", None)),
    "no gamma": (
        r"stages.0.blocks.0 has no parameters",
        lambda m: setattr(m.stages[0].blocks[0], "gamma", None),
    ),
    "no norm": ("stem.norm is gone", lambda m: setattr(m.stem, "norm", None)),
    "eps": (
        "stages.0.blocks.0.norm has eps 1e-05",
        lambda m: setattr(m.stages[0].blocks[0].norm, "eps", 1e-5),
    ),
    "eps of a map": (
        "stages.1.downsample.norm has eps 0.1",
        lambda m: setattr(m.stages[1].downsample.norm, "eps", 0.1),
    ),
    "forward": (
        "stages.0.blocks.0 has a forward of its own",
        lambda m: other_block(m.stages[0].blocks[0]),
    ),
    "forward_features": (
        "the network has a forward_features of its own",
        lambda m: setattr(m, "forward_features", m.forward_features),
    ),
    "pre-hook": (
        "stem has a forward hook",
        lambda m: m.stem.register_forward_pre_hook(lambda *_: None),
    ),
    "more blocks": (
        "stages.0.blocks.1 was added",
        lambda m: m.stages[0].blocks.append(copy.deepcopy(m.stages[0].blocks[0])),
    ),
    "fewer blocks": ("stages.1.blocks.1 is gone", lambda m: m.stages[1].blocks.pop(1)),
    "training": (
        "drop_path is in training mode",
        lambda m: m.stages[1].blocks[1].drop_path.train(),
    ),
}


def dilated():
    return nn.Conv2d(24, 24, 7, padding=3, dilation=3, groups=24)


@pytest.mark.parametrize("change", CHANGES)
def test_a_network_that_was_changed_is_refused_by_name(change):
    reason, make = CHANGES[change]
    model = network(drop_path_rate=0.5)
    make(model)
    with pytest.raises(ValueError, match=reason):
        optimize(model)
    found = running(model)
    assert found.engine == "eager"
    assert re.search(reason, found.reason)


def test_layers_that_compute_the_same_may_stand_for_others():
    model = network()
    want = optimize(model, "fp32")
    block = model.stages[0].blocks[0]
    plain = nn.Conv2d(24, 24, 7, padding=3, groups=24)
    plain.load_state_dict(block.dwconv.state_dict())
    block.dwconv, block.drop_path = plain, nn.Identity()
    model.norm, model.head = nn.BatchNorm1d(40).eval(), nn.Linear(40, 3, bias=False)
    assert torch.equal(optimize(model, "fp32").packed, want.packed)


@pytest.mark.parametrize(("kind", "name"), [(Block, "stages.0.blocks.0"), (nn.Linear, "pwconv1")])
def test_a_class_that_was_patched_is_refused(monkeypatch, kind, name):
    model, forward = network(), kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, x: 2 * forward(self, x))
    with pytest.raises(ValueError, match=rf"{name}: {kind.__name__}.forward was replaced"):
        optimize(model)
