"""Options of segmentation: what they decide together, and what is refused with which message."""

import json

import pytest

from convnext import run as runs
from convnext.cli import main
from shapes import write_segmentation

SMALL = '{"depths": [1, 1, 2, 1], "dims": [8, 16, 24, 32]}'
TINY = [
    *("--task.body-args", SMALL, "--task.model-args", '{"head_dim": 16, "aux_dim": 8}'),
    *("--device", "cpu", "--train.precision", "fp32", "--workers", "0"),
]
SHORT = ["--batch-size", "4", "--epochs", "1"]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return write_segmentation(tmp_path_factory.mktemp("shapes") / "data", 8, 4)


@pytest.fixture(scope="module")
def trained(shapes, tmp_path_factory):
    """The folder of a finished run; tests only read it."""
    out = tmp_path_factory.mktemp("runs") / "run"
    args = ["train", "--data", str(shapes), "--out", str(out), "--image-size", "64"]
    assert main([*args, *TINY, *SHORT]) == 0
    return out


@pytest.fixture
def planned(shapes, monkeypatch):
    """The recipe and the reasons with which a command would train."""

    def plan(*arguments, data=True):
        found = []
        monkeypatch.setattr(
            runs, "train", lambda recipe, out, reasons=(): found.append((recipe, reasons))
        )
        images = ["--data", str(shapes)] if data else []
        assert main(["train", *arguments, *images]) == 0
        return found[0]

    return plan


def sizes(recipe):
    return recipe.data.crop_size, recipe.data.window, recipe.data.stride


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("", ("--data.window", "40"), (64, 40, 26)),
        ("", ("--data.stride", "20"), (64, 64, 20)),
        ("", ("--data.crop-size", "32"), (32, 0, 21)),
        ("upernet_convnext_tiny_ade20k", ("--data.crop-size", "96"), (96, 96, 64)),
        ("upernet_convnext_tiny_ade20k", ("--data.window", "640"), (512, 640, 426)),
        ("upernet_convnext_tiny_ade20k", ("--data.stride", "128"), (512, 512, 128)),
    ],
)
def test_one_size_alone_is_enough(planned, name, given, expected):
    recipe, _ = planned(*([name] if name else []), *given)
    assert sizes(recipe) == expected


def test_a_size_changes_a_recipe_of_a_file(planned, tmp_path):
    recipe, _ = planned("upernet_convnext_tiny_ade20k")
    path = tmp_path / "mine.json"
    path.write_text(recipe.to_json())
    assert sizes(planned(str(path), "--data.crop-size", "96")[0]) == (96, 96, 64)


def test_the_warmup_follows_the_length(planned):
    name = "upernet_convnext_tiny_ade20k"
    recipe, reasons = planned(name, "--optim.steps", "1000")
    assert (recipe.optim.steps, recipe.optim.warmup_steps) == (1000, 9)
    said = "warm-up of 9 steps, in proportion to the recipe's 1,500 of 160,000 steps"
    assert said in reasons
    recipe, reasons = planned(name, "--epochs", "40")
    assert (recipe.optim.steps, recipe.optim.epochs) == (None, 40)
    assert recipe.optim.warmup_epochs == pytest.approx(0.375)
    assert any("warm-up of 0.375 epochs" in reason for reason in reasons)
    recipe, reasons = planned(name, "--optim.steps", "1000", "--optim.warmup-steps", "77")
    assert (recipe.optim.steps, recipe.optim.warmup_steps) == (1000, 77)
    assert not any("warm-up" in reason for reason in reasons)
    recipe, _ = planned(name, "--epochs", "40", "--optim.warmup-epochs", "2")
    assert (recipe.optim.warmup_steps, recipe.optim.warmup_epochs) == (None, 2.0)


def test_the_recipe_of_the_demonstration_brings_its_images(planned, shapes):
    recipe, _ = planned("demo_segmentation", data=False)
    assert recipe.data.path == "napari"
    assert recipe.data.in_chans == 1
    assert planned("demo_segmentation")[0].data.path == str(shapes)


def test_plain_names_are_listed_as_fit_to_the_data(capsys):
    assert main(["recipes", "upernet_convnext_tiny*", "--json"]) == 0
    published, plain = json.loads(capsys.readouterr().out)
    assert published["expected"] == "mIoU 46.0 / 46.7"
    assert plain["source"] == "fit to the data"
    assert plain["lr"] is plain["length"] is plain["expected"] is None


REFUSED = {
    "JSON of another type": (["--task.body-args", "3"], "JSON object"),
    "a word for a width": (["--task.model-args", '{"head_dim": "wide"}'], "head_dim is 'wide'"),
    "a list for a width": (["--task.model-args", '{"head_dim": [8]}'], "head_dim is [8]"),
    "a number for a list": (["--task.model-args", '{"pool_scales": 3}'], "pool_scales is 3"),
    "a number for depths": (["--task.body-args", '{"depths": 3}'], "depths is 3"),
    "another weighting": (["--task.class-weights", "3"], "--task.class-weights"),
    "a stride with gaps": (["--data.window", "32", "--data.stride", "33"], "stride = 33"),
    "fields of a timm network": (
        ["--model", "upernet_timm:resnet18", "--task.body-args", SMALL],
        "--task.body-args is for the networks of this package",
    ),
    "a batch of one": (["--batch-size", "1", "--epochs", "1"], "batch of one image"),
    "micro-batches of one": (
        [*SHORT, "--train.micro-batch", "1"],
        "--train.micro-batch and --optim.batch-size to 2",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_train_is_one_line_and_leaves_no_folder(case, shapes, tmp_path, capsys):
    arguments, words = REFUSED[case]
    out = tmp_path / "run"
    args = ["train", "--data", str(shapes), "--out", str(out), "--device", "cpu", "--workers", "0"]
    assert main([*args, *arguments]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert len(err.splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("class_weights", [1, 2], "task.class_weights is [1, 2]"),
        ("body_args", 3, "task.body_args is 3"),
        ("model_args", {"head_dim": None}, "head_dim is None"),
        ("drop_path_rate", [0.1], "task.drop_path_rate is [0.1]"),
    ],
)
def test_a_recipe_file_of_other_types_is_one_line(field, value, words, trained, tmp_path, capsys):
    stored = json.loads((trained / "recipe.json").read_text())
    stored["recipe"]["task"][field] = value
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(stored))
    assert main(["train", str(path), "--out", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("option", [("--topk", "3"), ("--batch-size", "4")])
def test_options_without_effect_are_refused(option, trained, shapes, capsys):
    images = str(shapes / "images" / "val")
    assert main(["predict", str(trained), images, *option]) == 2
    assert f"{option[0]} is not for segmentation networks" in capsys.readouterr().err


def test_the_size_of_the_images_can_be_given(trained, shapes, tmp_path, capsys):
    images = str(shapes / "images" / "val")
    assert main(["evaluate", str(trained), "--batch-size", "4"]) == 2
    assert "--batch-size is not for segmentation networks" in capsys.readouterr().err
    seen = []
    for more in ([], ["--image-size", "32"]):
        out = tmp_path / f"e{len(more)}"
        common = ["--device", "cpu", "--workers", "0", *more]
        assert main(["evaluate", str(trained), "--out", str(out), *common]) == 0
        seen.append(json.loads((out / "evaluation.json").read_text())["confusion"])
        csv = tmp_path / f"p{len(more)}.csv"
        assert main(["predict", str(trained), images, "--csv", str(csv), *common]) == 0
        assert csv.is_file()
    assert seen[0] != seen[1]
    assert "short side 32 px" in (out / "report.html").read_text()
    args = ["predict", str(trained), images, "--full-size", "--image-size", "32"]
    assert main(args) == 2
    assert "leave one of them" in capsys.readouterr().err
