"""What goes wrong ends in one readable message, exit status 2, and nothing half-written."""

import os
import pickle
import resource
import shutil
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from convnext import create_model, save_pretrained
from convnext.cli import main
from convnext.run.folder import RunFolder
from convnext.weights.preprocessing import Preprocessing


@contextmanager
def limited(kind, value):
    """A limit of this process, such as the largest file that it may write."""
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


@pytest.fixture
def refused(capsys):
    """Run a command that must fail; gives its message."""

    def run_command(arguments, *words):
        assert main(arguments) == 2
        err = capsys.readouterr().err
        message = err.splitlines()[-1]
        assert message.startswith("convnext: ")
        assert "Traceback" not in err
        for word in words:
            assert word in message
        return message

    return run_command


def test_a_missing_folder(refused, train_arguments, tmp_path):
    out = tmp_path / "run"
    refused(train_arguments(out, "--data", str(tmp_path / "none")), "no such file or folder")
    assert not out.exists()


def test_an_empty_class(refused, train_arguments, tmp_path, image_writer):
    data, out = image_writer(tmp_path / "data", 3), tmp_path / "run"
    (data / "white").mkdir()
    refused(train_arguments(out, "--data", str(data)), "'white' holds no images", "remove it")
    assert not out.exists()


def test_one_class_only(refused, train_arguments, tmp_path, image_writer):
    data, out = image_writer(tmp_path / "data", 3), tmp_path / "run"
    for name in ("red", "green"):
        shutil.rmtree(data / name)
    refused(train_arguments(out, "--data", str(data)), "only one class ('blue')")
    assert not out.exists()


def test_the_classes_of_weights_and_data_differ(refused, run, tmp_path, image_writer):
    data, out = image_writer(tmp_path / "data", 3), tmp_path / "out"
    (data / "red").rename(data / "purple")
    arguments = ["evaluate", str(run), "--data", str(data), "--out", str(out)]
    refused(arguments, "'purple'", "not among the 3 classes of the model")
    assert not out.exists()


def test_a_label_out_of_range(refused, train_arguments, tmp_path, image_writer):
    data, out = image_writer(tmp_path / "data", 3), tmp_path / "run"
    (data / "classes.txt").write_text("blue\ngreen\nred\n")
    names = ("blue", "green", "red")
    rows = [f"{name}/{i}.png,{label}" for label, name in enumerate(names) for i in range(3)]
    (data / "train.csv").write_text("\n".join(["path,label", *rows, "red/0.png,7"]))
    arguments = train_arguments(out, "--data", str(data / "train.csv"))
    refused(arguments, "label 7 is out of range 0..2")
    assert not out.exists()


def test_an_unreadable_image_stops_before_the_first_step(
    refused, train_arguments, tmp_path, image_writer
):
    data, out = image_writer(tmp_path / "data", 6), tmp_path / "run"
    (data / "red" / "bad.jpg").write_text("this is no image")
    (data / "blue" / "empty.png").touch()
    arguments = train_arguments(out, "--data", str(data))
    refused(arguments, "2 unreadable images", "bad.jpg", "empty.png", "skip")
    assert not out.exists()


def test_unreadable_images_are_skipped_and_counted_on_request(
    train_arguments, tmp_path, image_writer, capsys
):
    data, out = image_writer(tmp_path / "data", 6), tmp_path / "run"
    (data / "red" / "bad.jpg").write_text("this is no image")
    arguments = train_arguments(out, "--data", str(data), "--epochs", "1")
    assert main([*arguments, "--data.on-bad-image", "skip"]) == 0
    said = capsys.readouterr().out
    assert "1 unreadable images are left out" in said
    assert "bad.jpg" in said
    assert RunFolder(out).stored()["data"]["skipped"] == 1


class Evil:
    """A pickle that would run a command."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def damaged(kind, run, tmp_path):
    """A folder or file that is no good checkpoint."""
    path = tmp_path / "weights"
    if kind == "truncated":
        shutil.copytree(run / "weights", path)
        whole = (path / "model.safetensors").read_bytes()
        (path / "model.safetensors").write_bytes(whole[:-500])
    elif kind == "truncated checkpoint":
        path = tmp_path / "checkpoints" / "best.pt"
        path.parent.mkdir()
        whole = (run / "checkpoints" / "best.pt").read_bytes()
        path.write_bytes(whole[:-500])
    elif kind == "other network":
        path = tmp_path / "resnet.pth"
        torch.save({"conv1.weight": torch.zeros(8, 3, 7, 7)}, path)
    elif kind == "text":
        path = tmp_path / "notes.pth"
        path.write_text("weights: none")
    else:
        path = tmp_path / ("evil.pth" if kind == "malicious" else "evil.zip.pth")
        evil = Evil(tmp_path / "was_run")
        if kind == "malicious":
            path.write_bytes(pickle.dumps({"model": evil}))
        else:
            torch.save({"model": {"head.weight": torch.zeros(2, 2)}}, path)
            with zipfile.ZipFile(path) as archive:
                content = {n: archive.read(n) for n in archive.namelist()}
            with zipfile.ZipFile(path, "w") as archive:
                for name, data in content.items():
                    bad = pickle.dumps({"model": evil}) if name.endswith("data.pkl") else data
                    archive.writestr(name, bad)
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("truncated", "model.safetensors"),
        ("truncated checkpoint", "cut short or damaged"),
        ("other network", "resnet.pth"),
        ("text", "notes.pth is not a checkpoint"),
        ("malicious", "evil.pth"),
        ("malicious zip", "evil.zip.pth"),
    ],
)
def test_a_bad_checkpoint(kind, words, run, images, tmp_path, refused, train_arguments):
    path = damaged(kind, run, tmp_path)
    before = sorted(tmp_path.iterdir())
    folder = str(images / "test" / "red")
    refused(["predict", str(path), folder, "--csv", str(tmp_path / "out.csv")], words)
    if kind != "truncated checkpoint":
        refused(["weights", "inspect", str(path)], words)
        refused(train_arguments(tmp_path / "run", "--task.pretrained", str(path)), words)
    assert sorted(tmp_path.iterdir()) == before  # no table, no run, and nothing was executed


def test_all_checkpoints_of_a_run_are_damaged(run, tmp_path, refused, train_arguments):
    out = tmp_path / "run"
    shutil.copytree(run, out)
    for path in (out / "checkpoints").glob("step_*.pt"):
        path.write_bytes(path.read_bytes()[:100])
    refused(train_arguments(out), "no checkpoint in", "delete the folder")


def test_no_space_for_a_checkpoint(refused, train_arguments, tmp_path):
    out = tmp_path / "run"
    with limited(resource.RLIMIT_FSIZE, 30_000):
        refused(train_arguments(out), "no space left", "run the same command again")
    assert not list((out / "checkpoints").glob("*"))
    assert main(train_arguments(out)) == 0


def test_no_space_for_predictions(refused, run, images, tmp_path):
    table = tmp_path / "out.csv"
    with limited(resource.RLIMIT_FSIZE, 200):
        arguments = ["predict", str(run), str(images / "val"), "--csv", str(table)]
        refused([*arguments, "--workers", "0"], "large")
    assert not list(tmp_path.iterdir())


def test_no_permission(refused, train_arguments, run, images, tmp_path):
    """/proc takes no files of anybody, of the superuser neither."""
    refused(train_arguments("/proc/convnext/run"), "/proc")
    folder = str(images / "test" / "red")
    refused(["predict", str(run), folder, "--csv", "/proc/convnext.csv"], "/proc/convnext.csv")
    file = tmp_path / "file"
    file.touch()
    refused(train_arguments(file / "run"), "is a file")


def test_a_folder_that_is_no_run(refused, train_arguments, tmp_path):
    (tmp_path / "thesis.tex").touch()
    refused(train_arguments(tmp_path), "not empty and holds no run")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_damaged_recipe(refused, run, train_arguments, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "recipe.json").write_text((run / "recipe.json").read_text()[:200])
    refused(train_arguments(out), "recipe.json is damaged")


def test_a_loss_that_is_not_a_number(refused, train_arguments, tmp_path):
    arguments = train_arguments(tmp_path / "run", "--lr", "1e30", "--optim.warmup-epochs", "0")
    refused(
        [*arguments, "--train.ema-decay", "None"], "not finite", "step", "lower the learning rate"
    )


def test_a_batch_larger_than_the_data(refused, train_arguments, tmp_path):
    out = tmp_path / "run"
    refused(train_arguments(out, "--batch-size", "64"), "64 is larger than the 36 training images")
    assert not out.exists()


def test_out_of_memory_names_the_batch_that_fits(refused, train_arguments, tmp_path):
    out = tmp_path / "run"
    arguments = train_arguments(out, "--image-size", "192", "--task.stem-stride", "1")
    arguments += ["--task.model-args", '{"depths": [2], "dims": [32]}', "--batch-size", "32"]
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    with limited(resource.RLIMIT_AS, size + 900 * 2**20):
        message = refused(arguments, "out of memory", "fit: set micro_batch=")
    fits = message.split("--train.micro-batch ")[1].split(")")[0]
    assert 1 <= int(fits) < 32


def test_out_of_memory_in_a_prediction(refused, images, tmp_path):
    model = create_model("convnext_atto", depths=(1, 1), dims=(64, 8), num_classes=2)
    save_pretrained(model, tmp_path, preprocessing=Preprocessing(image_size=2048))
    photo = next(images.rglob("*.png"))
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    with limited(resource.RLIMIT_AS, size + 200 * 2**20):
        refused(
            ["predict", str(tmp_path), str(photo), "--engine", "eager", "--workers", "0"],
            *("out of memory", "fewer images at a time"),
        )


def test_another_image_is_no_image(run, tmp_path, capsys):
    path = tmp_path / "table.png"
    path.write_text("a,b\n1,2\n")
    assert main(["predict", str(run), str(path)]) == 1
    assert "table.png" in capsys.readouterr().err
