"""save_pretrained, inspect and convert: what is written, what is said, what is refused."""

import errno
import json
import resource

import pytest
import torch
from safetensors import safe_open

from convnext.models.registry import build_model
from convnext.weights import Preprocessing, convert, inspect, load_pretrained, save_pretrained
from convnext.weights.layouts.table import LAYOUT_NAMES, from_convnext

TINY = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32), "num_classes": 3}
ISOTROPIC = {"depths": (2,), "dims": (16,), "num_classes": 3}


def network(name="convnext_tiny", **kwargs):
    defaults = ISOTROPIC if "isotropic" in name else TINY
    model = build_model(name, **{**defaults, **kwargs})
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p))
    return model


@pytest.fixture
def model():
    return network()


def state_equal(a, b):
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def test_everything_comes_back(model, tmp_path):
    preprocessing = Preprocessing(
        image_size=96, mean=(0.5,) * 3, std=(0.2,) * 3, crop_mode="squash"
    )
    save_pretrained(
        model,
        tmp_path / "deep" / "folder",
        labels=["ä", "b b", "c"],
        descriptions={"ä": "umlaut"},
        preprocessing=preprocessing,
        name="my_net",
        licence="CC0",
        extra={"top1": 91.5, "recipe": {"lr": 1e-3}},
    )
    loaded, info = load_pretrained(tmp_path / "deep" / "folder")
    assert state_equal(loaded.state_dict(), model.state_dict())
    assert info.labels == ("ä", "b b", "c")
    assert info.descriptions == {"ä": "umlaut"}
    assert info.preprocessing == preprocessing
    assert (info.name, info.licence) == ("my_net", "CC0")
    assert info.extra == {"top1": 91.5, "recipe": {"lr": 1e-3}}
    names = sorted(p.name for p in (tmp_path / "deep" / "folder").iterdir())
    assert names == ["config.json", "model.safetensors"]


def test_labels_edited_by_hand_count(model, tmp_path):
    save_pretrained(model, tmp_path, labels=["a", "b", "c"])
    config = json.loads((tmp_path / "config.json").read_text())
    config["label_names"] = ["x", "y", "z"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_pretrained(tmp_path)[1].labels == ("x", "y", "z")


def test_wrapped_networks_are_saved_bare(model, tmp_path):
    save_pretrained(torch.nn.DataParallel(torch.compile(model)), tmp_path)
    assert state_equal(load_pretrained(tmp_path)[0].state_dict(), model.state_dict())


def test_what_cannot_be_saved(model, tmp_path):
    with pytest.raises(ValueError, match="2 labels for a network with 3 classes"):
        save_pretrained(model, tmp_path, labels=["a", "b"])
    with pytest.raises(ValueError, match=r"writes networks of this package, not Linear"):
        save_pretrained(torch.nn.Linear(2, 2), tmp_path)
    with pytest.raises(ValueError, match="features_only network has no norm and head"):
        save_pretrained(network(features_only=True), tmp_path)
    with pytest.raises(ValueError, match="preprocessing has 3 channels, the network has 1"):
        save_pretrained(network(in_chans=1), tmp_path, preprocessing=Preprocessing())
    with pytest.raises(ValueError, match="extra cannot be written as JSON"):
        save_pretrained(model, tmp_path, extra={"x": object()})
    with pytest.raises(ValueError, match="extra cannot be written as JSON"):
        save_pretrained(model, tmp_path, extra={"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk():
    """No file can grow beyond 16 KiB, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16 << 10, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_earlier_save(model, tmp_path, request):
    save_pretrained(model, tmp_path, labels=["a", "b", "c"])
    other = network()
    request.getfixturevalue("small_disk")
    with pytest.raises(OSError, match=r"cannot write .*model\.safetensors: .*free some space"):
        save_pretrained(other, tmp_path)
    with pytest.raises(OSError, match=r"cannot write .*net\.pth: .*free some space"):
        convert(tmp_path, tmp_path / "net.pth", "official")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    loaded, info = load_pretrained(tmp_path)
    assert state_equal(loaded.state_dict(), model.state_dict())
    assert info.labels == ("a", "b", "c")


def test_a_folder_that_cannot_be_made(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write .*file/net/.*choose another folder") as error:
        save_pretrained(model, tmp_path / "file" / "net")
    assert error.value.__cause__.errno == errno.ENOTDIR


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{", r"config\.json is not valid JSON"),
        ("[]", r"config\.json must hold a JSON object"),
        (
            '{"convnext": {"preprocessing": {"image_size": 0}}}',
            r"config\.json is damaged.*image_size 0",
        ),
        ('{"convnext": {"config": {"stem_stride": 1}}}', "stem_stride 1 does not fit the stem"),
        ('{"convnext": 3}', r"config\.json is damaged"),
    ],
)
def test_damaged_configurations(change, message, model, tmp_path):
    save_pretrained(model, tmp_path)
    (tmp_path / "config.json").write_text(change)
    with pytest.raises(ValueError, match=message):
        load_pretrained(tmp_path)


def test_inspection_says_what_a_file_is(tmp_path):
    state = from_convnext(network("convnextv2_tiny", in_chans=1).state_dict(), "official")
    state = {f"module.{name}": tensor.half() for name, tensor in state.items()}
    torch.save({"model_ema": state, "epoch": 3, "args": None}, tmp_path / "a.pth")
    found = inspect(tmp_path / "a.pth")
    assert (found.layout, found.model) == ("official (V1 or V2)", None)
    assert (found.num_classes, found.in_chans, found.dtypes) == (3, 1, ("float16",))
    assert found.wrappers == ("model_ema", "module.")
    assert found.extra == ("epoch", "args")
    assert found.num_parameters == sum(t.numel() for t in state.values())
    text = str(found)
    for words in ("a.pth", "depths (1, 1, 2, 1)", "GRN", "model_ema > module.", "epoch, args"):
        assert words in text
    assert "layer scale" not in text


def test_inspection_names_known_networks(tmp_path):
    model = build_model("convnext_atto", num_classes=2)
    save_pretrained(model, tmp_path, labels=["no", "yes"], licence="MIT")
    found = inspect(tmp_path)
    assert (found.layout, found.model) == ("timm", "convnext_atto")
    assert found.labels == ("no", "yes")
    assert "labels      no, yes" in str(found)
    assert f"{sum(p.numel() for p in model.parameters()):,}" in str(found)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize(
    ("name", "layouts"),
    [
        ("convnext_tiny", LAYOUT_NAMES),
        ("convnextv2_tiny", [n for n in LAYOUT_NAMES if n != "torchvision"]),
        ("convnext_isotropic_small", ["convnext", "official"]),
        ("convnext_isotropic_large", ["convnext", "official"]),
    ],
)
def test_files_of_every_layout_come_back_bit_for_bit(name, layouts, suffix, tmp_path):
    model = network(name)
    save_pretrained(model, tmp_path / "first", labels=["a", "b", "c"])
    source = tmp_path / "first"
    for layout in layouts:  # through all of them, one after the other
        target = tmp_path / f"{layout}{suffix}"
        assert convert(source, target, layout) == target
        source = target
        assert inspect(target).layout.startswith(
            {"convnext": "convnext", "fcmae": "official FCMAE"}.get(layout, layout)
        )
    loaded, info = load_pretrained(source)
    assert state_equal(loaded.state_dict(), model.state_dict())
    if suffix == ".safetensors":
        assert info.labels == ("a", "b", "c")  # the file carries them along
        with safe_open(source, "pt") as file:
            assert file.metadata()["format"] == "pt"


def test_official_files_hold_the_state_under_model(model, tmp_path):
    save_pretrained(model, tmp_path / "a")
    convert(tmp_path / "a", tmp_path / "a.pth", "official")
    assert set(torch.load(tmp_path / "a.pth", weights_only=True)) == {"model"}


@pytest.mark.parametrize(
    ("name", "kwargs", "layout", "message"),
    [
        ("convnext_isotropic_small", {}, "timm", "layout timm has no isotropic network"),
        ("convnext_isotropic_small", {}, "transformers", "has no isotropic network"),
        ("convnextv2_tiny", {}, "torchvision", "torchvision has no ConvNeXt V2"),
        ("convnext_tiny", {"stem_stride": 1}, "timm", "only 4x4 stems of stride 4"),
        ("convnext_tiny", {"stem_stride": 2}, "timm", "only stems of stride 4"),
        (
            "convnextv2_tiny",
            {"layer_scale_init_value": 0.1},
            "transformers",
            "no network with both GRN and layer scale",
        ),
        ("convnext_tiny", {}, "tim", r"unknown layout 'tim'; did you mean timm"),
    ],
)
def test_layouts_that_cannot_express_a_network(name, kwargs, layout, message, tmp_path):
    save_pretrained(network(name, **kwargs), tmp_path / "a")
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "a", tmp_path / "b.safetensors", layout)
    assert not (tmp_path / "b.safetensors").exists()


def test_conversions_that_are_refused(model, tmp_path):
    save_pretrained(model, tmp_path / "a")
    with pytest.raises(ValueError, match=r"unknown ending '\.txt'; use \.safetensors"):
        convert(tmp_path / "a", tmp_path / "b.txt", "timm")
    with pytest.raises(ValueError, match="layout official is written to a file"):
        convert(tmp_path / "a", tmp_path / "b", "official")
    save_pretrained(network(stem_stride=2), tmp_path / "s")
    with pytest.raises(ValueError, match="timm cannot build this network"):
        convert(tmp_path / "s", tmp_path / "b", "timm")
    torch.save({**model.state_dict(), "norm0.weight": torch.ones(8)}, tmp_path / "extra.pth")
    with pytest.raises(ValueError, match=r"tensors that are not part of a ConvNeXt: norm0\.weight"):
        convert(tmp_path / "extra.pth", tmp_path / "b.pth", "timm")
    convert(tmp_path / "extra.pth", tmp_path / "b.pth", "timm", allow=["norm0.*"])
    state = {k: v for k, v in model.state_dict().items() if not k.startswith(("norm.", "head."))}
    torch.save(state, tmp_path / "encoder.pth")
    with pytest.raises(ValueError, match="an encoder without final norm"):
        convert(tmp_path / "encoder.pth", tmp_path / "folder", "timm")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 0}, "image_size 0"),
        ({"mean": (0.5,)}, "one value per channel"),
        ({"std": (0.0, 1.0, 1.0)}, "must be positive"),
        ({"crop_pct": 1.5}, "crop_pct 1.5"),
        ({"interpolation": "nearest"}, "interpolation 'nearest' must be one of bicubic"),
        ({"crop_mode": "border"}, "crop_mode 'border' must be one of"),
    ],
)
def test_preprocessing_out_of_range(change, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(**change)
