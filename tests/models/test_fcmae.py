"""The masked autoencoder: sparse and dense against an implementation that goes site by site."""

import math

import pytest
import torch
import torch.nn.functional as F

from convnext.models.convnext import ConvNeXt, ConvNeXtConfig
from convnext.models.fcmae import (
    FCMAE,
    FCMAEConfig,
    encode_dense,
    encode_sparse,
    patches,
    unpatch,
)
from convnext.ops.masked import random_mask

KINDS = {
    "v2": {"grn": True, "layer_scale_init_value": 0.0},
    "v1": {"grn": False, "layer_scale_init_value": 0.5},
}


def encoder(kind="v2", **more):
    torch.manual_seed(0)
    config = ConvNeXtConfig(
        depths=(1, 1, 2, 1), dims=(4, 6, 8, 10), num_classes=0, **{**KINDS[kind], **more}
    )
    model = ConvNeXt(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.2)
    return model


def layer_norm(x, module, eps=1e-6):
    mean = x.mean()
    return (x - mean) / ((x - mean).square().mean() + eps).sqrt() * module.weight + module.bias


def naive(model, images, mask):
    """A dictionary from position to features, and loops: nothing of the package's operators."""
    maps = []
    for image, hidden in zip(images, mask, strict=True):
        rows, columns = hidden.shape
        sites = {}
        conv = model.stem.conv
        for y in range(rows * 8):
            for x in range(columns * 8):
                if not hidden[y // 8, x // 8]:
                    patch = image[:, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
                    value = (conv.weight * patch).sum((1, 2, 3)) + conv.bias
                    sites[y, x] = layer_norm(value, model.stem.norm)
        for stage in model.stages:
            if stage.downsample is not None:
                conv, merged = stage.downsample.conv, {}
                for y, x in sites:
                    if y % 2 == 0 and x % 2 == 0:
                        value = conv.bias
                        for dy in range(2):
                            for dx in range(2):
                                normed = layer_norm(sites[y + dy, x + dx], stage.downsample.norm)
                                value = value + conv.weight[:, :, dy, dx] @ normed
                        merged[y // 2, x // 2] = value
                sites = merged
            for block in stage.blocks:
                sites = naive_block(block, sites)
        features = torch.zeros(len(next(iter(sites.values()))), rows, columns, dtype=images.dtype)
        columns_of = [torch.stack([sites.get((y, x), features[:, y, x]) for x in range(columns)], 1)
                      for y in range(rows)]  # fmt: skip
        maps.append(torch.stack(columns_of, 1))
    return torch.stack(maps)


def naive_block(block, sites):
    hidden = {}
    for y, x in sites:
        value = block.dwconv.bias
        for dy in range(-3, 4):
            for dx in range(-3, 4):
                if (y + dy, x + dx) in sites:
                    tap = block.dwconv.weight[:, 0, dy + 3, dx + 3]
                    value = value + tap * sites[y + dy, x + dx]
        value = layer_norm(value, block.norm)
        value = block.pwconv1.weight @ value + block.pwconv1.bias
        hidden[y, x] = value * (1 + torch.erf(value / math.sqrt(2))) / 2
    if block.grn is not None:
        norm = torch.stack(list(hidden.values())).square().sum(0).sqrt()
        ratio = norm / (norm.mean() + 1e-6)
        hidden = {k: block.grn.gamma * (v * ratio) + block.grn.beta + v for k, v in hidden.items()}
    out = {}
    for place, value in hidden.items():
        branch = block.pwconv2.weight @ value + block.pwconv2.bias
        if block.gamma is not None:
            branch = branch * block.gamma
        out[place] = sites[place] + branch
    return out


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_both_executions_equal_the_naive_one_forward_and_all_gradients(kind):
    model = encoder(kind).double()
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64, requires_grad=True)
    mask = random_mask(2, (2, 3), 0.5)
    inputs = [images, *(p for n, p in model.named_parameters() if not n.startswith("norm"))]
    expected = naive(model, images, mask)
    upstream = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, inputs, upstream)
    for encode in (encode_sparse, encode_dense):
        found = encode(model, images, mask)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        gradients = torch.autograd.grad(found, inputs, upstream)
        for got, want in zip(gradients, wanted, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_single_precision(kind):
    model = encoder(kind)
    images, mask = torch.randn(3, 3, 96, 64), random_mask(3, (3, 2), 0.6)
    exact = encode_dense(encoder(kind).double(), images.double(), mask).float()
    for encode in (encode_sparse, encode_dense):
        torch.testing.assert_close(encode(model, images, mask), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_stays_close_and_finite(dtype):
    model = encoder()
    images, mask = torch.randn(3, 3, 96, 96) * 3, random_mask(3, (3, 3), 0.6)
    exact = encode_dense(model, images, mask)
    for encode in (encode_sparse, encode_dense):
        model.zero_grad()
        with torch.autocast("cpu", dtype=dtype):
            found = encode(model, images, mask)
            found.float().square().mean().backward()
        assert (found.float() - exact).abs().max() < 0.06 * exact.abs().max()
        assert all(p.grad.isfinite().all() for p in model.stages.parameters())


def test_hidden_pixels_are_not_seen():
    model, mask = encoder(), random_mask(2, (3, 3), 0.6)
    images = torch.randn(2, 3, 96, 96)
    hidden = mask.repeat_interleave(32, 1).repeat_interleave(32, 2)[:, None]
    other = torch.where(hidden, torch.randn_like(images) * 100, images)
    for encode in (encode_sparse, encode_dense):
        assert torch.equal(encode(model, images, mask), encode(model, other, mask))


def test_nothing_hidden_is_the_plain_network():
    model, images = encoder(), torch.randn(2, 3, 64, 96)
    mask = torch.zeros(2, 2, 3, dtype=torch.bool)
    expected = model.forward_features(images)
    for encode in (encode_sparse, encode_dense):
        torch.testing.assert_close(encode(model, images, mask), expected, rtol=1e-4, atol=1e-5)


def test_statistics_are_those_of_each_image_alone():
    """The published sparse GRN takes one norm over all points of the batch."""
    model, images = encoder(), torch.randn(3, 3, 64, 64)
    mask = random_mask(3, (2, 2), 0.5)
    together = encode_sparse(model, images, mask)
    for i in range(3):
        alone = encode_sparse(model, images[i : i + 1], mask[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-5, atol=1e-6)


def test_last_row_and_column_hidden_in_every_image():
    """The published code infers the size of the map from the visible positions."""
    mask = torch.zeros(2, 3, 3, dtype=torch.bool)
    mask[:, 2], mask[:, :, 2] = True, True
    assert encode_sparse(encoder(), torch.randn(2, 3, 96, 96), mask).shape == (2, 10, 3, 3)


def small(**more):
    return FCMAEConfig(encoder="convnextv2_atto", decoder_dim=16, **more)


def test_patches_and_back():
    images = torch.randn(2, 3, 64, 96)
    cells = patches(images)
    assert cells.shape == (2, 6, 32 * 32 * 3)
    # channels fastest, then columns, then rows
    torch.testing.assert_close(cells[0, 4, :3], images[0, :, 32, 32])
    torch.testing.assert_close(cells[0, 4, 3:6], images[0, :, 32, 33])
    torch.testing.assert_close(cells[0, 4, 96:99], images[0, :, 33, 32])
    assert torch.equal(unpatch(cells, (2, 3)), images)


def test_loss_by_hand():
    model = FCMAE(small())
    images, mask = torch.randn(2, 3, 64, 64), random_mask(2, (2, 2), 0.5)
    prediction = torch.randn(2, 4, 3072)
    total, count = 0.0, 0
    for n in range(2):
        for cell in range(4):
            if mask[n].flatten()[cell]:
                y, x = divmod(cell, 2)
                target = images[n, :, 32 * y : 32 * y + 32, 32 * x : 32 * x + 32]
                target = target.permute(1, 2, 0).flatten()
                target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
                total += F.mse_loss(prediction[n, cell], target).item()
                count += 1
    assert count == 4
    assert model.loss(images, prediction, mask).item() == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize(
    ("size", "params"),
    [
        ("atto", 7_257_992),
        ("femto", 8_751_472),
        ("pico", 12_521_792),
        ("nano", 19_016_592),
        ("tiny", 31_965_568),
        ("base", 91_922_432),
        ("large", 200_910_592),
        ("huge", 662_616_192),
    ],
)
def test_as_many_parameters_as_published(size, params):
    with torch.device("meta"):
        model = FCMAE(FCMAEConfig(encoder=f"convnextv2_{size}"))
    assert sum(p.numel() for p in model.parameters()) == params


def test_initial_weights():
    model = FCMAE(FCMAEConfig())
    for name, p in model.named_parameters():
        if p.ndim > 1 or name == "mask_token":
            assert p.std().item() == pytest.approx(0.02, rel=0.15), name


@pytest.mark.parametrize("execution", ["sparse", "dense"])
def test_it_learns_to_paint(execution):
    torch.manual_seed(0)
    model = FCMAE(small(execution=execution))
    colours = torch.randn(8, 3, 1, 1)
    ramp = torch.linspace(-1, 1, 64)[None, None, :, None].expand(8, 3, 64, 64)
    images = colours + ramp
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    losses = []
    for _ in range(60):
        loss = model(images).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_grad_checkpointing_changes_nothing():
    model = FCMAE(small())
    images, mask = torch.randn(2, 3, 64, 64), random_mask(2, (2, 2), 0.5)
    results = []
    for enable in (False, True):
        model.encoder.set_grad_checkpointing(enable)
        model.zero_grad()
        model(images, mask).loss.backward()
        results.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask_ratio": 1.0}, "mask_ratio 1.0 must be in"),
        ({"encoder": "convnext_isotropic_small"}, "must be a ConvNeXt V1 or V2"),
        ({"encoder": "roadmap_t_resnet"}, "must be a ConvNeXt V1 or V2"),
        ({"decoder_depth": 0}, "must be at least 1"),
        ({"execution": "fast"}, "must be auto, sparse or dense"),
    ],
)
def test_bad_configurations(arguments, message):
    with pytest.raises(ValueError, match=message):
        FCMAEConfig(**arguments)


def test_bad_images():
    model = FCMAE(small())
    with pytest.raises(ValueError, match=r"70 x 64 px cannot be cut .* 64 x 64"):
        model(torch.randn(1, 3, 70, 64))
    with pytest.raises(ValueError, match=r"expected \(N, 3, H, W\)"):
        model(torch.randn(1, 1, 64, 64))
    with pytest.raises(ValueError, match="does not fit the images"):
        model(torch.randn(1, 3, 64, 64), torch.zeros(1, 3, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="leaves none"):
        model(torch.randn(1, 3, 32, 32))


def test_any_channels_and_shape():
    model = FCMAE(small(in_chans=5, mask_ratio=0.5))
    result = model(torch.randn(2, 5, 32, 128))
    assert result.mask.shape == (2, 1, 4)
    assert result.prediction.shape == (2, 4, 5 * 1024)
    assert result.loss.isfinite()
