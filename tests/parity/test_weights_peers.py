"""Conversion from and to the networks of timm, torchvision and transformers: equal logits."""

import pytest
import torch
from torch import nn

from convnext.models.convnext import ConvNeXt
from convnext.weights.architecture import infer_config
from convnext.weights.layouts.table import from_convnext, to_convnext

SHAPE = {"depths": (2, 1, 2, 1), "dims": (8, 16, 24, 32)}
HF_SHAPE = {"depths": [2, 1, 2, 1], "hidden_sizes": [8, 16, 24, 32]}


def perturbed(network: nn.Module) -> nn.Module:
    """Give every parameter a value that matters: γ of 1e-6 would hide each mistake in a block."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in network.parameters():
            noise = torch.randn(p.shape, generator=generator)
            p.copy_(0.5 + 0.3 * noise if p.ndim != 2 and p.numel() == max(p.shape) else 0.2 * noise)
    return network.eval()


def timm_v1(**kwargs) -> nn.Module:
    import timm

    return timm.create_model("convnext_tiny", **SHAPE, num_classes=5, **kwargs)


def timm_v1_conv_mlp() -> nn.Module:
    return timm_v1(conv_mlp=True)


def timm_v1_grey_headless() -> nn.Module:
    import timm

    return timm.create_model("convnext_tiny", **SHAPE, num_classes=0, in_chans=1)


def timm_v2() -> nn.Module:
    import timm

    return timm.create_model("convnextv2_tiny", **SHAPE, num_classes=5)


def timm_v2_atto() -> nn.Module:
    import timm

    return timm.create_model("convnextv2_atto", num_classes=5)


def torchvision_v1() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig
    from torchvision.models.convnext import ConvNeXt as Peer

    dims = [*SHAPE["dims"], None]
    blocks = [
        CNBlockConfig(a, b, d) for a, b, d in zip(dims, dims[1:], SHAPE["depths"], strict=False)
    ]
    return Peer(blocks, num_classes=5)


def transformers_v1() -> nn.Module:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    return ConvNextForImageClassification(ConvNextConfig(**HF_SHAPE, num_labels=5))


def transformers_v2() -> nn.Module:
    from transformers import ConvNextV2Config, ConvNextV2ForImageClassification

    return ConvNextV2ForImageClassification(ConvNextV2Config(**HF_SHAPE, num_labels=5))


def transformers_bare_v1() -> nn.Module:
    from transformers import ConvNextConfig, ConvNextModel

    return ConvNextModel(ConvNextConfig(**HF_SHAPE))


def transformers_bare_v2() -> nn.Module:
    from transformers import ConvNextV2Config, ConvNextV2Model

    return ConvNextV2Model(ConvNextV2Config(**HF_SHAPE))


PEERS = {
    "timm": [timm_v1, timm_v1_conv_mlp, timm_v1_grey_headless, timm_v2, timm_v2_atto],
    "torchvision": [torchvision_v1],
    "transformers": [transformers_v1, transformers_v2, transformers_bare_v1, transformers_bare_v2],
}
CASES = [
    pytest.param(name, peer, id=peer.__name__) for name, peers in PEERS.items() for peer in peers
]


def logits(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        out = network(x)
    if hasattr(out, "logits"):
        return out.logits
    return out.pooler_output if hasattr(out, "pooler_output") else out


@pytest.mark.parametrize(("layout", "make"), CASES)
def test_a_peers_own_network_gives_the_same_logits_here(layout, make):
    peer = perturbed(make())
    found, converted = to_convnext(peer.state_dict())
    assert found.name == layout
    assert not converted.unexpected
    ours = ConvNeXt(infer_config(converted.state)).eval()
    ours.load_state_dict(converted.state)  # strict
    x = torch.randn(2, ours.config.in_chans, 64, 64, generator=torch.Generator().manual_seed(2))
    expected, actual = logits(peer, x), logits(ours, x)
    assert expected.std() > 0.1  # else equality would say nothing
    assert (expected - actual).abs().max() / expected.abs().max() < 1e-5


@pytest.mark.parametrize(
    ("layout", "make"),
    [case for case in CASES if "bare" not in case.id and "conv_mlp" not in case.id],
)
def test_the_way_there_and_back_is_exact(layout, make):
    peer = perturbed(make())
    state = peer.state_dict()
    back = from_convnext(to_convnext(state)[1].state, layout)
    assert set(back) == set(state)
    for name, tensor in state.items():
        assert torch.equal(back[name], tensor), name
    peer.load_state_dict(back)  # strict: the shapes are the peer's too
