"""A run from a folder of images to weights that others load."""

import json
from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import load_file

from convnext import load_pretrained
from convnext.cli import main
from convnext.recipes.recipe import Recipe


def tensors_of(run):
    return load_file(run / "weights" / "model.safetensors")


def same_tensors(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def lines_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_folder_holds_everything(run):
    stored = json.loads((run / "recipe.json").read_text())
    assert {"recipe", "versions", "seed", "command", "data"} <= stored.keys()
    assert stored["versions"]["torch"] == torch.__version__.split("+")[0]
    assert stored["data"]["classes"] == ["blue", "green", "red"]
    assert len(list((run / "checkpoints").glob("step_*.pt"))) == 3
    assert (run / "checkpoints" / "best.pt").is_file()
    assert list((run / "tensorboard").iterdir())
    report = (run / "report.html").read_text()
    assert "Confusion" in report
    assert "Most confident mistakes" in report or "Right answers" in report
    assert 'src="http' not in report


def test_metrics_have_every_step_and_every_evaluation(run):
    lines = lines_of(run)
    assert [x["step"] for x in lines if x["kind"] == "train"] == list(range(1, 13))
    assert [x["step"] for x in lines if x["kind"] == "eval"] == [4, 8, 12]


def test_it_learns(run):
    scores = json.loads((run / "evaluation.json").read_text())
    assert scores["val"]["top1"] > 60
    assert scores["test"]["num_images"] == 12


def test_recipe_json_replays_the_run_to_the_bit(run, tmp_path, images):
    out = tmp_path / "again"
    assert main(["train", str(run / "recipe.json"), "--out", str(out)]) == 0
    assert same_tensors(tensors_of(run), tensors_of(out))
    recipes = [Recipe.from_file(folder / "recipe.json") for folder in (run, out)]
    assert recipes[0] == replace(recipes[1], notes=recipes[0].notes)


def test_timm_loads_the_weights_with_equal_logits(run):
    ours, info = load_pretrained(run / "weights")
    theirs = timm.create_model(f"local-dir:{run / 'weights'}", pretrained=True)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(theirs.eval()(x), ours.eval()(x), rtol=1e-5, atol=1e-5)
    assert info.labels == ("blue", "green", "red")


def test_the_same_command_on_a_finished_run_changes_nothing(run, train_arguments, capsys):
    weights, lines = tensors_of(run), lines_of(run)
    assert main(train_arguments(run)) == 0
    assert same_tensors(tensors_of(run), weights)
    assert lines_of(run) == lines


def test_other_settings_in_the_same_folder_are_refused(run, train_arguments, capsys):
    assert main(train_arguments(run, "--lr", "0.5")) == 2
    assert "optim.lr" in capsys.readouterr().err


def test_evaluate_repeats_the_scores_of_the_run(run, tmp_path, capsys):
    scores = json.loads((run / "evaluation.json").read_text())
    for split in ("val", "test"):
        out = tmp_path / split
        assert main(["evaluate", str(run), "--split", split, "--out", str(out)]) == 0
        found = json.loads((out / "evaluation.json").read_text())
        assert found["top1"] == scores[split]["top1"]
        assert found["loss"] == pytest.approx(scores[split]["loss"], abs=1e-6)
        assert (out / "report.html").is_file()
    table = capsys.readouterr().out
    assert "precision  recall" in table
    assert "expected calibration error" in table


def test_evaluate_takes_a_checkpoint_and_other_data(run, tmp_path, image_writer, capsys):
    data = image_writer(tmp_path / "new", 2, seed=9)
    best = run / "checkpoints" / "best.pt"
    arguments = ["evaluate", str(best), "--data", str(data), "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["num_images"] == 6


def test_a_named_recipe_keeps_its_effective_batch_by_accumulation(
    train_arguments, tmp_path, capsys
):
    arguments = train_arguments(tmp_path / "run", "--train.micro-batch", "4", "--epochs", "1")
    arguments.insert(1, "convnextv2_atto_fcmae_ft_in1k")
    arguments += ["--task.pretrained", ""]
    assert main(arguments) == 0
    assert "effective batch 8 = 1 x 2 x 4" in capsys.readouterr().err
    recipe = Recipe.from_file(tmp_path / "run" / "recipe.json")
    assert recipe.optim.layer_decay == 0.9
    assert recipe.optim.schedule == "per_epoch_fraction"


def test_fine_tuning_replaces_the_head_and_says_so(run, tmp_path, images, capsys):
    data = tmp_path / "renamed"
    for split in ("train", "val"):
        for i, name in enumerate(("blue", "green", "red")):
            folder = data / split / f"class{i}"
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.symlink_to(images / split / name)
    arguments = ["train", "--data", str(data), "--out", str(tmp_path / "run"), "--device", "cpu"]
    arguments += ["--pretrained", str(run), "--image-size", "32", "--epochs", "1"]
    assert main([*arguments, "--batch-size", "18", "--workers", "0"]) == 0
    said = capsys.readouterr().out
    assert "head is new" in said
    assert Recipe.from_file(tmp_path / "run" / "recipe.json").optim.layer_decay < 1
