"""Feature diversity against the definition, pair by pair."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convnext.evaluate.diversity import channel_distance, diversity
from convnext.models.registry import build_model


def naive(maps):
    """Every pair of channels, as equation and text of the paper say."""
    distances = []
    for image in maps:
        cosines = [[F.cosine_similarity(a, b, dim=0) for b in image] for a in image]
        distances.append((1 - torch.tensor(cosines)).mean() / 2)
    return torch.stack(distances)


def test_against_every_pair():
    maps = torch.randn(3, 7, 11, dtype=torch.float64)
    torch.testing.assert_close(channel_distance(maps), naive(maps).double(), rtol=1e-6, atol=1e-6)


def test_extremes():
    same = torch.ones(1, 5, 4)
    assert channel_distance(same).item() == pytest.approx(0.0, abs=1e-12)
    opposite = torch.cat([torch.ones(1, 3, 4), -torch.ones(1, 3, 4)], dim=1)
    assert channel_distance(opposite).item() == pytest.approx(0.5)
    assert channel_distance(torch.zeros(1, 5, 4)).item() == 0.5


@pytest.mark.parametrize("name", ["convnext_atto", "convnextv2_atto", "roadmap_t_resnet"])
def test_every_block_of_every_kind_of_network(name):
    model = build_model(name, depths=(1, 2, 1, 1)).eval()
    images = torch.randn(3, 3, 64, 64)
    found = diversity(model, [images[:2], images[2:]])
    assert [layer.layer for layer in found] == [
        f"stages.{i}.blocks.{j}.pwconv2"
        for i, depth in enumerate((1, 2, 1, 1))
        for j in range(depth)
    ]
    seen = {}
    module = model.get_submodule(found[1].layer)
    handle = module.register_forward_pre_hook(lambda m, args: seen.update(x=args[0]))
    with torch.no_grad():
        model(images)
    handle.remove()
    maps = seen["x"]
    if isinstance(module, nn.Linear):
        maps = maps.permute(0, 3, 1, 2)
    assert found[1].channels == maps.shape[1]
    expected = channel_distance(maps.flatten(2)).mean().item()
    assert found[1].distance == pytest.approx(expected, abs=1e-6)
    assert 0 <= found[1].dead <= 1
    assert not model.get_submodule(found[0].layer)._forward_pre_hooks


def test_dead_channels_are_counted():
    model = build_model("roadmap_t_resnet", depths=(1, 1, 1, 1), width=8).eval()
    with torch.no_grad():
        norm = model.stages[0].blocks[0].norm_dwconv
        norm.weight[:3] = 0.0
        norm.bias[:3] = -1.0
    assert diversity(model, [torch.randn(2, 3, 64, 64)])[0].dead == pytest.approx(3 / 8)


def test_what_cannot_be_analysed():
    with pytest.raises(ValueError, match="no layers named pwconv2"):
        diversity(nn.Identity(), [])
    with pytest.raises(ValueError, match="no image"):
        diversity(build_model("convnext_atto"), [])
