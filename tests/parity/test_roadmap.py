"""The two ends of the road against torchvision's ResNet-50 and our ConvNeXt."""

import pytest
import torch
import torchvision

from convnext.models.registry import build_model
from convnext.models.roadmap import STEPS, changes
from convnext.weights import load_pretrained, save_pretrained


def randomise(model):
    """Weights and statistics that leave no term of the forward pass at 0 or 1."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            scale = 0.05 if tensor.ndim > 1 else 0.3
            value = torch.randn(tensor.shape, generator=generator) * scale
            positive = name.endswith("running_var") or (tensor.ndim == 1 and "weight" in name)
            tensor.copy_(value.abs() + 0.5 if positive else value)
    return model.eval()


def from_torchvision(state):
    """torchvision's names of a ResNet's tensors to ours."""
    block = {
        **{"conv1": "pwconv1", "conv2": "dwconv", "conv3": "pwconv2"},
        **{"bn1": "norm_pwconv1", "bn2": "norm_dwconv", "bn3": "norm_pwconv2"},
        "downsample": "shortcut",
    }
    renamed = {}
    for name, tensor in state.items():
        parts = name.split(".")
        if parts[0].startswith("layer"):
            rest = [block[parts[2]], *parts[3:]]
            parts = ["stages", str(int(parts[0][5:]) - 1), "blocks", parts[1], *rest]
        else:
            parts[:1] = {"conv1": ["stem", "conv"], "bn1": ["stem", "norm"], "fc": ["head"]}[
                parts[0]
            ]
        renamed[".".join(parts)] = tensor
    return renamed


def from_convnext(state):
    """Names and shapes of a ConvNeXt's tensors on the road's last step."""
    renamed = {}
    for name, tensor in state.items():
        if ".blocks." in name:
            name = name.replace(".norm.", ".norm_dwconv.")
        if "pwconv" in name and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]
        renamed[name] = tensor
    return renamed


def test_the_first_step_is_torchvisions_resnet50():
    peer = randomise(torchvision.models.resnet50())
    ours = build_model("roadmap_t_resnet").eval()
    ours.load_state_dict(from_torchvision(peer.state_dict()))
    x = torch.randn(2, 3, 96, 128)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), peer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("regime", "size"), [("t", "tiny"), ("b", "base")])
def test_the_last_step_is_convnext(regime, size):
    convnext = randomise(build_model(f"convnext_{size}"))
    ours = build_model(f"roadmap_{regime}_separate_downsampling").eval()
    ours.load_state_dict(from_convnext(convnext.state_dict()))
    x = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        expected = convnext(x)
        scale = expected.abs().max()
        torch.testing.assert_close(ours(x) / scale, expected / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize("regime", ["t", "b"])
def test_each_step_changes_what_its_row_says_and_nothing_else(regime):
    from dataclasses import asdict

    from convnext.models.registry import model_config

    before = None
    for step in STEPS:
        config = asdict(model_config(f"roadmap_{regime}_{step.name}"))
        if before is not None:
            changed = {k: v for k, v in config.items() if before[k] != v}
            assert changed == changes(step, regime), step.name
            assert changed
        if step.adopted:
            before = config


@pytest.mark.parametrize("step", [s.name for s in STEPS])
def test_weights_of_every_step_are_saved_and_loaded(step, tmp_path):
    name = f"roadmap_t_{step}"
    model = build_model(name, width=8, depths=(1, 2, 1, 1), num_classes=3, in_chans=1)
    model = randomise(model)
    save_pretrained(model, tmp_path / "weights", labels=["a", "b", "c"], name=name)
    loaded, info = load_pretrained(tmp_path / "weights")
    assert loaded.config == model.config
    assert (info.name, info.labels) == (name, ("a", "b", "c"))
    x = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(x), model(x))
    other, _ = load_pretrained(tmp_path / "weights", num_classes=0, in_chans=3)
    with torch.no_grad():
        assert other.eval()(torch.randn(2, 3, 64, 64)).shape == (2, model.num_features)
