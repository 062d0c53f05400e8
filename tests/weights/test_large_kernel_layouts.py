"""Published layouts of SLaK and RepLKNet: same function, same tensors, clear words for the rest."""

import json

import published_large_kernels as published
import pytest
import torch

from convnext.models.large_kernel import merge
from convnext.models.registry import build_model, list_models, model_config
from convnext.weights import convert, create_model, inspect, load_pretrained, save_pretrained
from convnext.weights.architecture import described, infer_config, model_name, stored_fields
from convnext.weights.layouts.table import from_convnext, to_convnext

DEPTHS, DIMS = (1, 1, 2, 1), (8, 10, 12, 14)
KERNELS = (13, 11, 9, 7)
TOY = {"depths": DEPTHS, "dims": DIMS}
SLAK_TOY = {**TOY, "width_factor": 1.0, "kernel_size": KERNELS}
LARGE = [name for name in list_models() if name.startswith(("slak", "replknet"))]


def slak(**kwargs):
    return published.drawn(published.SLaK(DEPTHS, DIMS, KERNELS, **kwargs))


def square(**kwargs):
    return slak(strips=(), **kwargs)


def replknet(**kwargs):
    return published.drawn(published.RepLKNet(DEPTHS, DIMS, KERNELS, **kwargs))


def ours(name, **kwargs):
    fields = {"width_factor": 1.0, "kernel_size": KERNELS} if name.startswith("slak") else {}
    model = build_model(
        name, **{**TOY, "num_classes": 10, "kernel_size": KERNELS, **fields, **kwargs}
    )
    return published.drawn(model)


def saved(model, folder, name="net.pth"):
    torch.save(model.state_dict(), folder / name)
    return folder / name


def logits_agree(model, theirs, chans=3):
    x = torch.randn(2, chans, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), theirs(x), atol=1e-5, rtol=1e-5)


def state_equal(a, b):
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


# what each published network should be read as: layout, and fields of its configuration
CASES = {
    "strips": (slak, "official (SLaK)", {"small_kernel": 5, "decomposed": True}),
    "early strips": (
        lambda: slak(strips=("Decom1", "Decom2")),
        "official (SLaK)",
        {"small_kernel": 5, "decomposed": True},
    ),
    "square": (square, "official (SLaK)", {"small_kernel": 5, "decomposed": False}),
    "square with norm only": (
        lambda: square(small=100),
        "official (SLaK)",
        {"small_kernel": max(KERNELS), "decomposed": False},
    ),
    "square without norm": (
        lambda: square(small=100, bn=False),
        "official (SLaK)",
        {"small_kernel": 0, "merged": False},
    ),
    "square, merged": (
        lambda: published.reparameterised(square()),
        "official (SLaK, re-parameterised)",
        {"small_kernel": 5, "merged": True, "decomposed": False},
    ),
    "RepLKNet": (replknet, "official (RepLKNet)", {"small_kernel": 5, "expansion": 1.0}),
    "RepLKNet without small kernel": (
        lambda: replknet(small=None, ratio=1.5),
        "official (RepLKNet)",
        {"small_kernel": 0, "expansion": 1.5},
    ),
    "RepLKNet, merged": (
        lambda: published.reparameterised(replknet()),
        "official (RepLKNet, re-parameterised)",
        {"merged": True},
    ),
    "RepLKNet, fused": (
        lambda: published.fused(replknet()),
        "official (RepLKNet)",
        {"merged": True},
    ),
    "RepLKNet, merged and fused": (
        lambda: published.fused(published.reparameterised(replknet(ratio=1.5))),
        "official (RepLKNet, re-parameterised)",
        {"merged": True, "expansion": 1.5},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_published_networks_compute_the_same(case, tmp_path):
    make, layout, fields = CASES[case]
    theirs = make()
    loaded, info = load_pretrained(saved(theirs, tmp_path))
    assert info.report.layout == layout
    assert not info.report.missing
    assert not info.report.unexpected
    config = loaded.config
    assert (config.depths, config.channels) == (DEPTHS, DIMS)
    assert config.kernel_sizes == KERNELS
    assert {name: getattr(config, name) for name in fields} == fields
    assert (config.num_classes, config.in_chans) == (10, 3)
    logits_agree(loaded, theirs)


@pytest.mark.parametrize("make", [slak, square, replknet])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_training_checkpoints_are_unwrapped(make, prefix, tmp_path):
    raw, average = make(), make()
    content = {
        "model": {prefix + k: v for k, v in raw.state_dict().items()},
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]},
        "epoch": 299,
        "scaler": {"scale": 1.0},
        "args": {"Decom": True, "kernel_size": [51, 49, 47, 13, 5]},
        "model_ema": {prefix + k: v for k, v in average.state_dict().items()},
    }
    torch.save(content, tmp_path / "checkpoint-299.pth")
    loaded, info = load_pretrained(tmp_path / "checkpoint-299.pth")
    logits_agree(loaded, average)
    assert info.report.wrappers == ("model_ema", *([prefix] if prefix else []))
    logits_agree(load_pretrained(tmp_path / "checkpoint-299.pth", ema=False)[0], raw)


@pytest.mark.parametrize("make", [lambda: slak(chans=1), lambda: replknet(chans=1, classes=7)])
def test_channels_and_classes_are_told_by_shapes(make, tmp_path):
    theirs = make()
    loaded, _ = load_pretrained(saved(theirs, tmp_path))
    assert loaded.config.in_chans == 1
    logits_agree(loaded, theirs, chans=1)
    other, info = load_pretrained(tmp_path / "net.pth", num_classes=3, in_chans=3)
    assert other(torch.randn(1, 3, 64, 64)).shape == (1, 3)
    assert len(info.report.adapted) == 2
    maps = load_pretrained(tmp_path / "net.pth", features_only=True)[0](torch.randn(1, 1, 64, 64))
    assert [m.shape[1] for m in maps] == list(DIMS)


@pytest.mark.parametrize("name", LARGE)
def test_every_named_network_is_told_by_its_tensors(name):
    for merged in (False, True):
        with torch.device("meta"):
            state = build_model(name, merged=merged, num_classes=21, in_chans=4).state_dict()
        config, expected = infer_config(state), model_config(name)
        assert model_name(config) == name
        assert (config.num_classes, config.in_chans, config.merged) == (21, 4, merged)
        assert config.channels == expected.channels
        assert config.kernel_sizes == expected.kernel_sizes
        words = described(config, stored_fields(expected))
        assert stored_fields(words) == {**stored_fields(expected), "merged": merged}
        if not merged:
            assert config.small_kernel == expected.small_kernel
            there = from_convnext(state, "official")
            layout, converted = to_convnext(there)
            assert layout.name == "official"
            assert converted.state.keys() == state.keys()


def test_unnamed_networks_have_their_widths_as_dims(tmp_path):
    model = ours("slak_tiny", width_factor=1.3)
    config = load_pretrained(saved(model, tmp_path))[0].config
    assert (config.dims, config.width_factor) == (model.config.channels, 1.0)


def test_named_networks_take_files_in_their_words(tmp_path):
    dims = tuple(int(dim * 1.3) for dim in DIMS)
    theirs = published.drawn(published.SLaK(DEPTHS, dims, KERNELS))
    path = saved(theirs, tmp_path)
    fields = {"depths": DEPTHS, "dims": DIMS, "kernel_size": KERNELS}
    model = create_model("slak_tiny", pretrained=path, **fields)
    assert (model.config.dims, model.config.width_factor) == (DIMS, 1.3)
    logits_agree(model, theirs)


@pytest.mark.parametrize(
    "model",
    [
        lambda: ours("slak_tiny"),
        lambda: ours("slak_tiny", decomposed=False),
        lambda: ours("slak_tiny", decomposed=False, merged=True),
        lambda: ours("slak_tiny", small_kernel=max(KERNELS), decomposed=False),
        lambda: ours("convnextv2_tiny", small_kernel=3, decomposed=True),
        lambda: ours("convnext_tiny", kernel_size=(9, 9, 9, 5)),
        lambda: ours("replknet_31b"),
        lambda: ours("replknet_xl", kernel_size=9),
    ],
)
def test_conversion_to_the_published_names_and_back_changes_no_bit(model, tmp_path):
    model = model()
    save_pretrained(model, tmp_path / "a")
    convert(tmp_path / "a", tmp_path / "b.pth", "official")
    theirs = torch.load(tmp_path / "b.pth", weights_only=True)
    assert set(theirs) == {"model"}
    convert(tmp_path / "b.pth", tmp_path / "c.safetensors", "convnext")
    convert(tmp_path / "c.safetensors", tmp_path / "d", "convnext")
    for place in ("b.pth", "c.safetensors", "d"):
        loaded, info = load_pretrained(tmp_path / place)
        assert state_equal(loaded.state_dict(), model.state_dict())
        assert len(info.report.matched) == len(model.state_dict())


@pytest.mark.parametrize(("make", "name"), [(slak, "slak_tiny"), (replknet, "replknet_31b")])
def test_written_files_load_in_the_published_code(make, name, tmp_path):
    theirs = make()
    convert(saved(theirs, tmp_path), tmp_path / "back.pth", "official")
    written = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert state_equal(written, theirs.state_dict())
    model = ours(name)
    save_pretrained(model, tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "ours.pth", "official")
    theirs.load_state_dict(torch.load(tmp_path / "ours.pth", weights_only=True)["model"])
    logits_agree(model, theirs)


@pytest.mark.parametrize(
    ("name", "kwargs", "layout", "message"),
    [
        *[
            (name, {}, layout, f"layout {layout} has no .*; use 'official' or 'convnext'")
            for name in ("slak_tiny", "replknet_31b")
            for layout in ("timm", "torchvision", "transformers", "fcmae")
        ],
        ("slak_tiny", {"merged": True}, "official", "official has no merged network with large"),
        ("replknet_31b", {"merged": True}, "official", "official has no merged RepLKNet"),
        (
            "convnext_tiny",
            {"kernel_size": 9},
            "torchvision",
            r"no network with depthwise kernels \(9",
        ),
        ("convnext_tiny", {"kernel_size": 9}, "transformers", "no network with depthwise kernels"),
    ],
)
def test_layouts_that_have_no_such_network(name, kwargs, layout, message, tmp_path):
    save_pretrained(ours(name, **kwargs), tmp_path / "a")
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "a", tmp_path / "b.pth", layout)
    if layout in ("timm", "transformers"):
        with pytest.raises(ValueError, match=f"{layout} cannot build this network"):
            convert(tmp_path / "a", tmp_path / "b", layout)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_timm_takes_other_kernel_sizes(tmp_path):
    import timm

    model = ours("convnext_tiny", kernel_size=(9, 7, 5, 3))
    save_pretrained(model, tmp_path / "a")
    convert(tmp_path / "a", tmp_path / "b.safetensors", "timm")
    peer = timm.create_model(
        "convnext_tiny",
        depths=DEPTHS,
        dims=DIMS,
        num_classes=10,
        kernel_sizes=(9, 7, 5, 3),
        checkpoint_path=str(tmp_path / "b.safetensors"),
    )
    logits_agree(model, peer.eval())


@pytest.mark.parametrize(
    "model",
    [
        lambda: ours("slak_tiny"),
        lambda: ours("slak_tiny", width_factor=1.3, width_multiple=4),
        lambda: ours("slak_small", small_kernel=3, stem_stride=2, layer_scale_init_value=0.5),
        lambda: merge(ours("slak_tiny")),
        lambda: merge(ours("slak_tiny", decomposed=False, small_kernel=3)),
        lambda: ours("convnext_tiny", kernel_size=31),
        lambda: ours("convnext_tiny", kernel_size=7, width_factor=1.3),
        lambda: ours("convnext_tiny", kernel_size=(31, 7, 7, 7), small_kernel=5),
        lambda: ours("replknet_31b"),
        lambda: ours("replknet_31l", small_kernel=3, kernel_size=9, expansion=1.25),
        lambda: merge(ours("replknet_31b", small_kernel=3)),
        lambda: ours("replknet_xl", num_classes=0),
    ],
)
def test_folders_of_changed_networks_come_back(model, tmp_path):
    model = model()
    save_pretrained(model, tmp_path / "net", extra={"top1": 1.0})
    loaded, info = load_pretrained(tmp_path / "net")
    assert state_equal(loaded.state_dict(), model.state_dict())
    assert loaded.config == model.config
    assert info.extra == {"top1": 1.0}
    logits_agree(loaded, model)
    convert(tmp_path / "net", tmp_path / "copy", "convnext")
    assert load_pretrained(tmp_path / "copy")[0].config == model.config


def test_folders_keep_their_name_merged_or_not(tmp_path):
    fields = {"kernel_size": 3, "small_kernel": 0}
    save_pretrained(ours("replknet_31b", **fields), tmp_path / "a", name="replknet_31b")
    assert load_pretrained(tmp_path / "a")[1].name == "replknet_31b"
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config["architecture"] == "network_only_in_convnext"
    with torch.device("meta"):
        names = {model_name(build_model(name, merged=True).config) for name in LARGE}
    assert names == set(LARGE)


@pytest.mark.parametrize(
    ("make", "name"),
    [(slak, "slak_tiny"), (lambda: square(), "slak_tiny"), (replknet, "replknet_31b")],
)
def test_merged_and_unmerged_do_not_mix(make, name, tmp_path):
    loaded, _ = load_pretrained(saved(make(), tmp_path))
    merged = merge(loaded)
    save_pretrained(merged, tmp_path / "merged")
    fields = {**TOY, "kernel_size": KERNELS}
    if name == "slak_tiny":
        fields |= {"width_factor": 1.0, "decomposed": loaded.config.decomposed}
    again = create_model(name, pretrained=tmp_path / "merged", merged=True, **fields)
    assert state_equal(again.state_dict(), merged.state_dict())
    with pytest.raises(ValueError, match=r"merged holds a merged network.*merged=True"):
        create_model(name, pretrained=tmp_path / "merged", **fields)
    with pytest.raises(ValueError, match=r"merged holds a merged network.*merged=True"):
        load_pretrained(tmp_path / "merged", merged=False)
    with pytest.raises(ValueError, match=r"net\.pth holds a network with its branches.*merge\("):
        create_model(name, pretrained=tmp_path / "net.pth", merged=True, **fields)
    with pytest.raises(ValueError, match=r"net\.pth holds a network with its branches.*merge\("):
        load_pretrained(tmp_path / "net.pth", merged=True)


def test_other_kernels_than_asked_for_are_named(tmp_path):
    fields = {**TOY, "width_factor": 1.0}
    path = saved(slak(), tmp_path)
    with pytest.raises(
        ValueError, match=r"kernel_size \(13, 11, 9, 7\) in the file and \(51, 49, 47, 13\) in slak"
    ):
        create_model("slak_tiny", pretrained=path, **fields)
    with pytest.raises(ValueError, match=r"small_kernel \(5, .*in the file and \(3, "):
        create_model("slak_tiny", pretrained=path, small_kernel=3, kernel_size=KERNELS, **fields)
    path = saved(replknet(), tmp_path)
    with pytest.raises(
        ValueError, match=r"kernel_size \(13, .* and \(31, 29, 27, 13\) in replknet"
    ):
        create_model("replknet_31b", pretrained=path, **TOY)
    with pytest.raises(ValueError, match=r"holds weights of a network with .*, not of slak_tiny;"):
        create_model("slak_tiny", pretrained=path, **fields)


def test_square_kernels_in_place_of_strips_are_recognised(tmp_path):
    path = saved(square(), tmp_path)
    with pytest.raises(
        ValueError, match=r"large kernels square in the file and strips.*decomposed=False builds"
    ):
        create_model("slak_tiny", pretrained=path, **SLAK_TOY)
    model = create_model("slak_tiny", pretrained=path, decomposed=False, **SLAK_TOY)
    assert not model.config.decomposed


@pytest.mark.parametrize("make", [slak, replknet])
def test_a_missing_branch_is_named(make, tmp_path):
    state = make().state_dict()
    lost = next(key for key in state if key.endswith("small_conv.bn.weight"))
    del state[lost]
    torch.save({"model": state, "stray": 1}, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"missing: stages\.0.*dwconv\.small\.norm\.weight"):
        load_pretrained(tmp_path / "net.pth")
    torch.save({**make().state_dict(), "stages.0.norm.weight": torch.ones(8)}, tmp_path / "n.pth")
    with pytest.raises(ValueError, match=r"unexpected: stages\.0\.norm\.weight"):
        load_pretrained(tmp_path / "n.pth")


@pytest.mark.parametrize(
    ("make", "lost", "message"),
    [
        (slak, "stages.0.0.large_kernel.LoRA1.", r"blocks\.0\.dwconv\. has a small kernel and no"),
        (slak, "stages.1.0.norm.", r"ConvNeXt: stages\.1\.blocks\.0\.norm\.weight is missing"),
        (replknet, "stages.0.blocks.0.large_kernel.lkb_origin.", "a small kernel and no large one"),
        (replknet, "stages.1.blocks.0.pw1.", r"RepLKNet: .*pwconv1\.conv\.weight is missing"),
    ],
)
def test_files_without_what_tells_the_shape_are_refused(make, lost, message, tmp_path):
    state = make().state_dict()
    rest = {name: tensor for name, tensor in state.items() if not name.startswith(lost)}
    assert len(rest) < len(state)
    torch.save(rest, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=rf"net\.pth: not a whole .*{message}"):
        load_pretrained(tmp_path / "net.pth")


def test_incomplete_reparameterised_files_are_refused(tmp_path):
    state = published.reparameterised(replknet()).state_dict()
    lost = {k: v for k, v in state.items() if k != "transitions.0.1.bn.running_mean"}
    torch.save(lost, tmp_path / "net.pth")
    with pytest.raises(
        ValueError, match=r"net\.pth: not a whole re-param.*downsample\.dwconv\.norm"
    ):
        load_pretrained(tmp_path / "net.pth")
    torch.save({**state, "head.weight": torch.ones(10, 3)}, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"net\.pth: tensors of this re-parameterised RepLKNet"):
        load_pretrained(tmp_path / "net.pth")
    both = {**state, "stem.0.conv.bias": torch.ones(8)}
    torch.save(both, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"stem\.layers\.0\.conv\.bias and a norm after it"):
        load_pretrained(tmp_path / "net.pth")
    torch.save({**state, "stages.0.norm.weight": torch.ones(8)}, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"unexpected: stages\.0\.norm\.weight"):
        load_pretrained(tmp_path / "net.pth")


def test_the_head_of_a_merged_replknet_stays(tmp_path):
    path = saved(published.reparameterised(replknet()), tmp_path)
    for classes in (0, 3):
        with pytest.raises(ValueError, match=rf"holds its last norm.*num_classes={classes}"):
            load_pretrained(path, num_classes=classes)
    assert "merged" in str(load_pretrained(path)[1].report)
    encoder = {k: v for k, v in torch.load(path).items() if not k.startswith(("norm.", "head."))}
    torch.save(encoder, tmp_path / "encoder.pth")
    maps = load_pretrained(tmp_path / "encoder.pth", features_only=True)[0].eval()
    x = torch.randn(1, 3, 64, 64)
    expected = load_pretrained(path, features_only=True)[0].eval()(x)
    for a, b in zip(maps(x), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_sparse_weights_load_and_are_counted(tmp_path):
    theirs = slak()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.ndim > 1:
                parameter[torch.rand_like(parameter) < 0.4] = 0.0
    loaded, _ = load_pretrained(saved(theirs, tmp_path))
    logits_agree(loaded, theirs)
    zeros = sum(int((p == 0).sum()) for p in theirs.parameters() if p.ndim > 1)
    total = sum(p.numel() for p in theirs.parameters())
    found = inspect(tmp_path / "net.pth")
    assert (found.num_parameters, found.num_zeros) == (total, zeros)
    assert f"; {total - zeros:,} non-zero of {total:,}" in str(found)
    assert found.dtypes == ("float32",)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (slak, ("official (SLaK)", "kernels (13, 11, 9, 7), in strips 5 wide, small kernel 5")),
        (lambda: square(small=100), ("kernels (13, 11, 9, 7), square, with norms",)),
        (
            lambda: published.reparameterised(square()),
            ("re-parameterised", "9, 7), square, merged"),
        ),
        (replknet, ("official (RepLKNet)", "kernels (13, 11, 9, 7), square, small kernel 5")),
        (
            lambda: published.reparameterised(replknet()),
            ("official (RepLKNet, re", "9, 7), square, merged"),
        ),
        (lambda: square(small=100, bn=False), ("kernels (13, 11, 9, 7), square",)),
    ],
)
def test_inspection_tells_the_kernels(make, words, tmp_path):
    text = str(inspect(saved(make(), tmp_path)))
    for word in words:
        assert word in text
    assert "non-zero" not in text
    assert "final norm" not in text
