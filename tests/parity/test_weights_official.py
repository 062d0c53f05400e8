"""Official layouts against networks written here from the papers, with the official names."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convnext.models.convnext import ConvNeXt
from convnext.weights.architecture import infer_config
from convnext.weights.layouts.table import from_convnext, to_convnext

DEPTHS, DIMS = (2, 1, 2, 1), (8, 16, 24, 32)


class ChannelNorm(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Response(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, dim))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, dim))

    def forward(self, x):
        size = x.square().sum((1, 2), keepdim=True).sqrt()
        return self.gamma * (x * size / (size.mean(-1, keepdim=True) + 1e-6)) + self.beta + x


class OfficialBlock(nn.Module):
    def __init__(self, dim, scale, grn):
        super().__init__()
        if scale:
            self.gamma = nn.Parameter(torch.ones(dim))
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        if grn:
            self.grn = Response(4 * dim)
        self.pwconv2 = nn.Linear(4 * dim, dim)

    def forward(self, x):
        y = F.gelu(self.pwconv1(self.norm(self.dwconv(x).permute(0, 2, 3, 1))))
        y = self.pwconv2(self.grn(y) if hasattr(self, "grn") else y)
        return x + (y * getattr(self, "gamma", 1.0)).permute(0, 3, 1, 2)


class Official(nn.Module):
    def __init__(self, grn):
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(3, DIMS[0], 4, 4), ChannelNorm(DIMS[0], eps=1e-6))
        pairs = itertools.pairwise(DIMS)
        self.downsample_layers = nn.ModuleList(
            [
                stem,
                *(nn.Sequential(ChannelNorm(a, eps=1e-6), nn.Conv2d(a, b, 2, 2)) for a, b in pairs),
            ]
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(OfficialBlock(dim, not grn, grn) for _ in range(depth)))
            for depth, dim in zip(DEPTHS, DIMS, strict=True)
        )
        self.norm = nn.LayerNorm(DIMS[-1], eps=1e-6)
        self.head = nn.Linear(DIMS[-1], 5)

    def forward(self, x):
        for down, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(down(x))
        return self.head(self.norm(x.mean((2, 3))))


class OfficialIsotropic(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 16, 16)
        self.blocks = nn.Sequential(*(OfficialBlock(16, scale, False) for _ in range(3)))
        self.norm = nn.LayerNorm(16, eps=1e-6)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        return self.head(self.norm(self.blocks(self.stem(x)).mean((2, 3))))


NETWORKS = {
    "v1": lambda: Official(grn=False),
    "v2": lambda: Official(grn=True),
    "isotropic": lambda: OfficialIsotropic(scale=False),
    "isotropic_with_layer_scale": lambda: OfficialIsotropic(scale=True),
}


def make(name: str) -> nn.Module:
    """A network in which every parameter matters."""
    network = NETWORKS[name]().eval()
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn_like(p) * 0.2 + (0.5 if p.numel() == max(p.shape) else 0.0))
    return network


@pytest.fixture(params=NETWORKS)
def official(request):
    return make(request.param)


def test_official_networks_give_the_same_logits_here(official):
    layout, converted = to_convnext(official.state_dict())
    assert layout.name == "official"
    assert not converted.unexpected
    ours = ConvNeXt(infer_config(converted.state)).eval()
    ours.load_state_dict(converted.state)
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected, actual = official(x), ours(x)
    assert expected.std() > 0.1
    assert (expected - actual).abs().max() / expected.abs().max() < 1e-5


def test_official_round_trip_is_exact(official):
    state = official.state_dict()
    back = from_convnext(to_convnext(state)[1].state, "official")
    assert set(back) == set(state)
    assert all(torch.equal(back[name], state[name]) for name in state)


def sparse_state(official: nn.Module) -> dict[str, torch.Tensor]:
    """The state as the sparse pre-training network stores it, written by the definition."""
    out = {}
    for name, t in official.state_dict().items():
        module, leaf = name.rsplit(".", 1)
        if name.startswith(("norm.", "head.")):
            continue
        sparse = not name.startswith("downsample_layers.0.")
        if sparse and t.ndim == 4 and leaf == "weight":
            k, inputs = t.shape[2], t.shape[1]
            kernel = torch.empty(k * k, inputs, t.shape[0])
            for ky in range(k):
                for kx in range(k):
                    kernel[ky + k * kx] = t[:, :, ky, kx].T
            out[f"encoder.{module}.kernel"] = kernel[:, 0] if "dwconv" in name else kernel
        elif "grn" in name:
            out[f"encoder.{name}"] = t.reshape(1, -1)
        elif "pwconv" in name:
            out[f"encoder.{module}.linear.{leaf}"] = t
        elif sparse and ("norm" in module or module.endswith(".0")):
            out[f"encoder.{module}.ln.{leaf}"] = t
        elif sparse and leaf == "bias":
            out[f"encoder.{name}"] = t[None]
        else:
            out[f"encoder.{name}"] = t
    decoder = {"proj.weight": torch.zeros(4, 32, 1, 1), "mask_token": torch.zeros(1, 4, 1, 1)}
    return out | decoder | {"decoder.0.dwconv.weight": torch.zeros(4, 1, 7, 7), "pred.bias": t}


def test_sparse_pretraining_state_becomes_the_dense_one():
    official = make("v2")
    sparse = sparse_state(official)
    layout, converted = to_convnext(sparse)
    assert layout.name == "fcmae"
    assert not converted.unexpected
    assert len(converted.dropped) == 4  # the decoder side
    dense = from_convnext(converted.state, "official")
    for name, tensor in dense.items():
        assert torch.equal(tensor, official.state_dict()[name]), name
    kept = {name: t for name, t in sparse.items() if name.startswith("encoder.")}
    back = from_convnext(converted.state, "fcmae")
    assert set(back) == set(kept)
    assert all(torch.equal(back[name], kept[name]) for name in kept)


def test_reading_a_dense_pretraining_state_again_changes_nothing():
    dense = {f"encoder.{k}": v for k, v in make("v2").state_dict().items()}
    dense["mask_token"] = torch.zeros(1, 4, 1, 1)
    once = from_convnext(to_convnext(dense)[1].state, "official")
    twice = from_convnext(to_convnext(once)[1].state, "official")
    assert set(once) == set(twice)
    assert all(torch.equal(once[name], twice[name]) for name in once)
