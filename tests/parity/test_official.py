"""Bit-equality with the published operator sequence, written down here a second time."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from convnext.models.registry import build_model
from convnext.ops import dispatch


def norm_2d(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    u = x.mean(1, keepdim=True)
    s = (x - u).pow(2).mean(1, keepdim=True)
    x = (x - u) / torch.sqrt(s + 1e-6)
    return w[:, None, None] * x + b[:, None, None]


def official_block(x: Tensor, p: dict[str, Tensor], prefix: str) -> Tensor:
    def get(name: str) -> Tensor:
        return p[prefix + name]

    dim = x.shape[1]
    y = F.conv2d(x, get("dwconv.weight"), get("dwconv.bias"), padding=3, groups=dim)
    y = y.permute(0, 2, 3, 1)
    y = F.layer_norm(y, (dim,), get("norm.weight"), get("norm.bias"), 1e-6)
    y = F.gelu(F.linear(y, get("pwconv1.weight"), get("pwconv1.bias")))
    if prefix + "grn.gamma" in p:
        gx = torch.norm(y, p=2, dim=(1, 2), keepdim=True)
        nx = gx / (gx.mean(dim=-1, keepdim=True) + 1e-6)
        y = get("grn.gamma").view(1, 1, 1, -1) * (y * nx) + get("grn.beta").view(1, 1, 1, -1) + y
    y = F.linear(y, get("pwconv2.weight"), get("pwconv2.bias"))
    if prefix + "gamma" in p:
        y = get("gamma") * y
    return x + y.permute(0, 3, 1, 2)


def official_forward(x: Tensor, p: dict[str, Tensor], depths: tuple[int, ...]) -> Tensor:
    """Stem, stages and head of the published code on our state dict."""
    isotropic = "stem.norm.weight" not in p
    x = F.conv2d(x, p["stem.conv.weight"], p["stem.conv.bias"], stride=16 if isotropic else 4)
    if not isotropic:
        x = norm_2d(x, p["stem.norm.weight"], p["stem.norm.bias"])
    for i, depth in enumerate(depths):
        if i:
            d = f"stages.{i}.downsample."
            x = norm_2d(x, p[d + "norm.weight"], p[d + "norm.bias"])
            x = F.conv2d(x, p[d + "conv.weight"], p[d + "conv.bias"], stride=2)
        for j in range(depth):
            x = official_block(x, p, f"stages.{i}.blocks.{j}.")
    x = F.layer_norm(x.mean([-2, -1]), (x.shape[1],), p["norm.weight"], p["norm.bias"], 1e-6)
    return F.linear(x, p["head.weight"], p["head.bias"])


def perturbed(name: str, **overrides: object) -> torch.nn.Module:
    """A network whose norms, biases, layer scales and GRN matter."""
    model = build_model(name, **overrides).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1:
                p.add_(torch.randn(p.shape, generator=generator) * 0.3)
    return model


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("convnext_tiny", (224, 224)),
        ("convnextv2_atto", (224, 224)),
        ("convnext_isotropic_small", (224, 224)),
        ("convnext_atto", (75, 100)),
    ],
)
def test_logits(name, size):
    model = perturbed(name)
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = official_forward(x, dict(model.named_parameters()), model.config.depths)
        with dispatch.use("reference"):
            reference = model(x)
        default = model(x)
        channels_last = model(x.contiguous(memory_format=torch.channels_last))
    assert torch.equal(reference, expected)
    # The default path may round elsewhere: 1e-5 of the logits' own size, in fp32.
    scale = expected.abs().max()
    assert (default - expected).abs().max() < 1e-5 * scale
    assert (channels_last - expected).abs().max() < 1e-5 * scale


def test_reference_gradients():
    model = perturbed("convnextv2_atto", num_classes=7).double()
    x = torch.randn(2, 3, 64, 64, dtype=torch.double)
    grads = []
    for choice in ("reference", "auto"):
        model.zero_grad()
        with dispatch.use(choice):
            model(x).square().sum().backward()
        grads.append({n: p.grad.clone() for n, p in model.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, msg=name)
