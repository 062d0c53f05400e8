"""A student learns from the run of another network: it learns, resumes, and refuses misfits."""

import json
import time

import pytest
import torch
from safetensors.torch import load_file

from convnext import create_model
from convnext.cli import main
from convnext.recipes.recipe import Recipe
from convnext.weights import Preprocessing, save_pretrained

STUDENT = (
    *("--task.model-args", '{"depths": [1, 1, 1, 1], "dims": [6, 8, 12, 16]}'),
    *("--task.mixup", "0.2", "--task.cutmix", "1.0", "--train.ema-decay", "0.8"),
)
STEPS = 12
TIMEOUT = 120.0


@pytest.fixture(scope="module")
def student_arguments(run, train_arguments):
    """Arguments of a student of the session's run; the last value of an option counts."""

    def arguments(out, *more, teacher=run):
        given = train_arguments(out, *STUDENT, *more)
        return [*given, "--task.teacher", str(teacher)] if teacher else given

    return arguments


@pytest.fixture(scope="module")
def student(tmp_path_factory, student_arguments):
    out = tmp_path_factory.mktemp("students") / "student"
    assert main(student_arguments(out)) == 0
    return out


def train_lines(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "train"]


def final(out):
    checkpoint = torch.load(out / "checkpoints" / f"step_{STEPS:08}.pt", weights_only=True)
    return {
        "weights": load_file(out / "weights" / "model.safetensors"),
        "task": checkpoint["task"],
        "ema": checkpoint["ema"],
    }


def assert_same_run(one, other):
    for part, tensors in final(one).items():
        others = final(other)[part]
        assert tensors.keys() == others.keys()
        assert all(torch.equal(tensors[key], others[key]) for key in tensors), part


def test_the_student_learns_and_both_losses_are_logged(student):
    scores = json.loads((student / "evaluation.json").read_text())
    assert scores["val"]["top1"] > 60
    lines = train_lines(student)
    assert len(lines) == STEPS
    for line in lines:
        assert line["loss"] == pytest.approx(line["label_loss"] + line["teacher_loss"], rel=1e-5)
    assert lines[-1]["teacher_loss"] < lines[0]["teacher_loss"]


def test_run_folder_and_weights_hold_the_student_only(student, run):
    found = final(student)
    for part in ("task", "ema"):
        assert found[part].keys() == final(run)["task"].keys()  # names of the same network
        assert found[part]["network.head.weight"].shape == (3, 16)
    assert Recipe.from_file(student / "recipe.json").classify.teacher == str(run)
    assert f"taught by {run}" in (student / "report.html").read_text()


def test_a_teacher_changes_neither_start_nor_images(student, student_arguments, tmp_path):
    out = tmp_path / "alone"
    assert main(student_arguments(out, "--epochs", "1", teacher=None)) == 0
    assert train_lines(out)[0]["loss"] == train_lines(student)[0]["label_loss"]


def test_a_killed_run_ends_in_the_same_weights(student, student_arguments, tmp_path, start):
    out = tmp_path / "run"
    arguments = student_arguments(out, "--train.checkpoint-every-steps", "3")
    with start(arguments) as process:
        end = time.monotonic() + TIMEOUT
        while process.poll() is None and not list(out.glob("checkpoints/step_*3.pt")):
            assert time.monotonic() < end, "no progress"
            time.sleep(0.01)
        process.kill()
    assert not (out / "evaluation.json").exists()
    assert main(arguments) == 0
    assert_same_run(student, out)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_every_process_of_a_group_has_the_teacher(
    parallel, student_arguments, tmp_path, start, student
):
    plain = ("--task.mixup", "0", "--task.cutmix", "0", "--train.parallel", parallel)
    alone, out = tmp_path / "alone", tmp_path / "two"
    assert main(student_arguments(alone, *plain, "--epochs", "1")) == 0
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")
    with start(student_arguments(out, *plain, "--epochs", "1"), prefix=torchrun) as process:
        text, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, text
    for one, two in zip(train_lines(alone), train_lines(out), strict=True):
        assert two["teacher_loss"] == pytest.approx(one["teacher_loss"], rel=1e-4)


def saved(folder, *, num_classes=3, in_chans=3, **known):
    model = create_model(
        "convnext_atto",
        depths=(1, 1, 1, 1),
        dims=(4, 6, 8, 10),
        num_classes=num_classes,
        in_chans=in_chans,
    )
    return save_pretrained(model, folder, **known)


def test_a_checkpoint_file_is_a_teacher_and_so_are_weights_without_names(
    run, student_arguments, tmp_path, capsys
):
    best = run / "checkpoints" / "best.pt"
    assert main(student_arguments(tmp_path / "one", "--epochs", "1", teacher=best)) == 0
    assert f"teacher {best}: 3 classes" in capsys.readouterr().out
    nameless = saved(tmp_path / "nameless", preprocessing=Preprocessing(mean=(0.5,) * 3))
    assert main(student_arguments(tmp_path / "two", "--epochs", "1", teacher=nameless)) == 0
    assert "its classes have no names" in capsys.readouterr().out


def refused(arguments, out, capsys):
    assert main(arguments) == 2
    assert not out.exists()
    return capsys.readouterr().err


def test_teachers_that_do_not_fit_are_refused(student_arguments, tmp_path, capsys):
    out = tmp_path / "run"

    def message(teacher):
        return refused(student_arguments(out, teacher=teacher), out, capsys)

    missing = tmp_path / "missing"
    assert f"no teacher (--task.teacher): {missing}: no such file" in message(missing)

    four = saved(tmp_path / "four", num_classes=4)
    assert f"the teacher {four} tells 4 classes apart, the data have 3" in message(four)

    headless = saved(tmp_path / "headless", num_classes=0)
    assert f"{headless} has no head" in message(headless)

    grey = saved(tmp_path / "grey", in_chans=1, preprocessing=Preprocessing(mean=(0,), std=(1,)))
    found = message(grey)
    assert f"the teacher {grey} takes images of 1 channels, the data have 3" in found
    assert "--data.in-chans 1" in found

    others = saved(tmp_path / "others", labels=("blue", "red", "green"))
    found = message(others)
    assert f"the teacher {others} was trained for other classes" in found
    assert "class 1 is 'red' there and 'green' in the data" in found


def test_another_teacher_is_another_run(student, run, student_arguments, capsys):
    teacher = run / "weights"
    assert main(student_arguments(student, teacher=teacher)) == 2
    assert "task.teacher" in capsys.readouterr().err


SLAK = {
    "depths": [1, 1, 1, 1],
    "dims": [6, 8, 12, 16],
    "kernel_size": [9, 7, 5, 5],
    "small_kernel": 3,
}


@pytest.mark.parametrize(
    ("model", "fields", "size"),
    [("slak_tiny", SLAK, 32), ("replknet_31b", {**SLAK, "depths": [1, 1, 2, 1]}, 64)],
)
def test_a_large_kernel_run_teaches_and_is_fine_tuned(
    model, fields, size, images, train_arguments, tmp_path, capsys
):
    """From a run with its batch norms and branches, as the recipe of the automatic choice."""
    teacher, out, tuned = tmp_path / "teacher", tmp_path / "student", tmp_path / "tuned"
    data = ["train", "--data", str(images), "--device", "cpu", "--workers", "0"]
    data += ["--epochs", "2", "--batch-size", "12", "--image-size", str(size)]
    own = ["--model", model, "--task.model-args", json.dumps(fields), "--out", str(teacher)]
    assert main([*data, *own]) == 0
    student = train_arguments(out, *STUDENT, "--image-size", str(size), "--epochs", "1")
    assert main([*student, "--task.teacher", str(teacher)]) == 0
    assert f"teacher {teacher}: 3 classes" in capsys.readouterr().out
    assert main([*data, "--pretrained", str(teacher), "--out", str(tuned)]) == 0
    recipe = Recipe.from_file(tuned / "recipe.json")
    assert recipe.classify.model == model
    assert fields.items() <= recipe.classify.model_args.items()
    assert recipe.optim.layer_decay < 1
