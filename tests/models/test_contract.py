"""What every registered network promises, at toy width."""

import pytest
import torch

from convnext.models.registry import build_model, list_models, model_config

TOY = {
    "convnext_atto",
    "convnextv2_atto",
    "convnext_isotropic_small",
    "roadmap_t_resnet",
    "roadmap_t_separate_downsampling",
    "slak_tiny",
    "replknet_31b",
}


def toy(name: str, **overrides: object) -> torch.nn.Module:
    """The named network with its blocks and stages, but narrow."""
    config = model_config(name)
    depths = tuple(min(d, 2) for d in config.depths)
    narrow = {"dims": tuple(8 * 2**i for i in range(len(depths)))}
    if name.startswith("roadmap"):
        narrow = {"width": 8}
    if name.startswith(("slak", "replknet")):
        narrow["kernel_size"] = (13, 11, 9, 7)
    return build_model(name, **{"depths": depths, **narrow, "num_classes": 5, **overrides})


@pytest.fixture(params=sorted(TOY))
def name(request) -> str:
    return request.param


@pytest.mark.parametrize("name", list_models())
def test_builds_on_meta_and_copies_nothing(name):
    with torch.device("meta"):
        model = build_model(name, num_classes=3, in_chans=5, drop_path_rate=0.1)
        out = model(torch.empty(2, 5, 64, 96))
    assert out.shape == (2, 3)
    assert {p.device.type for p in model.parameters()} == {"meta"}


@pytest.mark.parametrize(("classes", "channels", "size"), [(0, 1, (32, 32)), (7, 4, (65, 33))])
def test_any_classes_channels_and_size(name, classes, channels, size):
    model = toy(name, num_classes=classes, in_chans=channels).eval()
    out = model(torch.randn(2, channels, *size))
    assert out.shape == (2, classes or model.num_features)
    assert out.isfinite().all()


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_stem_stride(stride):
    model = toy("convnext_atto", stem_stride=stride).eval()
    features = model.forward_features(torch.randn(1, 3, 32, 32))
    assert features.shape[-1] == 32 // (8 * stride)
    assert model.feature_info.reduction() == [stride * 2**i for i in range(4)]


def test_forward_is_features_then_head(name):
    model = toy(name).eval()
    x = torch.randn(2, 3, 64, 64)
    features = model.forward_features(x)
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, model.num_features)
    torch.testing.assert_close(model.head(pooled), model(x), rtol=0, atol=0)


def test_features_only_agrees_with_the_description(name):
    full, maps = toy(name).eval(), toy(name, features_only=True).eval()
    result = maps.load_state_dict(full.state_dict(), strict=False)
    assert not result.missing_keys
    assert {"head.weight", "head.bias"} <= set(result.unexpected_keys)
    assert {key.partition(".")[0] for key in result.unexpected_keys} <= {"norm", "head"}
    x = torch.randn(1, 3, 64, 96)
    outputs = maps(x)
    assert [m.shape[1] for m in outputs] == maps.feature_info.channels()
    for m, stride in zip(outputs, maps.feature_info.reduction(), strict=True):
        assert m.shape[-2:] == (64 // stride, 96 // stride)
    torch.testing.assert_close(outputs[-1], full.forward_features(x), rtol=0, atol=0)


def test_out_indices():
    model = toy("convnext_atto", features_only=True, out_indices=(1, 3)).eval()
    assert model.feature_info.channels() == [16, 64]
    assert [m.shape[1] for m in model(torch.randn(1, 3, 64, 64))] == [16, 64]


def test_reset_classifier():
    model = toy("convnext_atto").eval()
    x = torch.randn(2, 3, 32, 32)
    features = model.forward_head(model.forward_features(x), pre_logits=True)
    model.reset_classifier(11)
    assert model(x).shape == (2, 11)
    model.reset_classifier(0)
    torch.testing.assert_close(model(x), features, rtol=0, atol=0)


def test_head_init_scale():
    torch.manual_seed(3)
    plain = toy("convnext_atto")
    torch.manual_seed(3)
    scaled = toy("convnext_atto", head_init_scale=0.001)
    torch.testing.assert_close(scaled.head.weight, plain.head.weight * 0.001)
    assert plain.head.weight.std().item() == pytest.approx(0.02, rel=0.15)


def test_initial_weights():
    model = build_model("convnext_atto", num_classes=1000)
    for parameter_name, p in model.named_parameters():
        if p.ndim > 1:
            assert p.std().item() == pytest.approx(0.02, rel=0.1), parameter_name
            assert p.abs().max() > 0.05  # an ordinary normal, not cut at two standard deviations
        elif parameter_name.endswith("gamma"):
            assert (p == 1e-6).all()
        elif parameter_name.endswith("bias"):
            assert (p == 0).all()


def test_grad_checkpointing_changes_nothing(name):
    model = toy(name, drop_path_rate=0.3).train()
    start = {k: v.clone() for k, v in model.state_dict().items()}
    x = torch.randn(4, 3, 64, 64)
    results = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        torch.manual_seed(5)
        loss = model(x).square().mean()
        loss.backward()
        statistics = [b.clone() for b in model.buffers()]
        results.append((loss.detach(), [p.grad.clone() for p in model.parameters()], statistics))
        model.load_state_dict(start)
    assert torch.equal(results[0][0], results[1][0])
    for a, b in zip(results[0][2], results[1][2], strict=True):
        assert torch.equal(a, b)  # statistics of batch norm are not counted twice
    for a, b in zip(results[0][1], results[1][1], strict=True):
        assert torch.equal(a, b)


def test_drop_path_grows_with_depth():
    model = toy("convnext_atto", drop_path_rate=0.3)
    rates = [b.drop_path.rate for s in model.stages for b in s.blocks]
    assert rates == pytest.approx(torch.linspace(0, 0.3, 8).tolist())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_low_precision(name, dtype):
    model = toy(name).eval()
    x = torch.randn(2, 3, 64, 64)
    exact = model(x)
    with torch.autocast("cpu", dtype=dtype):
        mixed = model(x)
        mixed.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert (mixed.float() - exact).abs().max() < 0.05 * exact.abs().max()
    low = model.to(dtype)(x.to(dtype))
    assert low.dtype == dtype
    assert (low.float() - exact).abs().max() < 0.1 * exact.abs().max()


def test_compiles_whole_and_exports(name):
    model = toy(name).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(
            torch.compile(model, fullgraph=True, backend="aot_eager")(x), expected
        )
        batch = torch.export.Dim("batch", min=1, max=64)
        program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
        torch.testing.assert_close(program.module()(x), expected)
        x = torch.randn(5, 3, 64, 64)
        torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.slow
def test_inductor_equals_eager():
    model = toy("convnextv2_atto", depths=(1, 1), dims=(8, 16))
    x = torch.randn(2, 3, 64, 64)
    compiled = torch.compile(model, fullgraph=True)
    loss = compiled(x).square().mean()
    loss.backward()
    grads = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    eager = model(x).square().mean()
    eager.backward()
    torch.testing.assert_close(loss, eager)
    for a, p in zip(grads, model.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "convnext_tny"}, "did you mean convnext_tiny"),
        ({"drop_pth_rate": 0.1}, "did you mean drop_path_rate"),
        ({"num_classes": -1}, "num_classes -1"),
        ({"in_chans": 0}, "in_chans 0"),
        ({"drop_path_rate": 1.0}, "drop_path_rate 1.0"),
        ({"stem_stride": 3}, "stem_stride 3"),
        ({"depths": (1, 1)}, "one entry for each stage"),
        ({"depths": (1, 0, 1, 1)}, "at least 1"),
        ({"layer_scale_init_value": -1.0}, "layer_scale_init_value -1"),
        ({"out_indices": (0,)}, "features_only"),
        ({"features_only": True, "out_indices": (4,)}, "0..3"),
        ({"name": "convnext_isotropic_small", "depths": (1, 1), "dims": (8, 8)}, "one stage"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_model(**{"name": "convnext_atto", **arguments})


@pytest.mark.parametrize("shape", [(1, 3, 31, 64), (1, 4, 64, 64), (3, 64, 64)])
def test_bad_input(shape):
    with pytest.raises(ValueError, match="does not fit"):
        toy("convnext_atto")(torch.randn(shape))


def test_layer_ids_group():
    with torch.device("meta"):
        ids, num_layers = build_model("convnext_base").layer_ids("group")
    assert num_layers == 12
    assert sorted(set(ids.values())) == list(range(14))
    assert ids["stem.conv.weight"] == 0
    assert ids["stages.1.downsample.conv.weight"] == 2
    assert ids["stages.2.downsample.norm.bias"] == 3
    assert ids["stages.3.downsample.conv.weight"] == 12
    assert ids["stages.2.blocks.0.gamma"] == 3
    assert ids["stages.2.blocks.26.gamma"] == 11
    assert ids["norm.weight"] == ids["head.bias"] == 13


def test_layer_ids_single():
    with torch.device("meta"):
        ids, num_layers = build_model("convnextv2_atto").layer_ids("single")
    assert num_layers == 12
    assert ids["stem.conv.weight"] == ids["stages.0.blocks.0.grn.gamma"] == 1
    assert ids["stages.2.downsample.conv.weight"] == ids["stages.2.blocks.0.norm.bias"] == 5
    assert ids["stages.3.blocks.1.dwconv.weight"] == 12
    assert ids["head.weight"] == 13


def test_layer_ids_group_needs_four_stages():
    with pytest.raises(ValueError, match="single"):
        toy("convnext_isotropic_small").layer_ids("group")
