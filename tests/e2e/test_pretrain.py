"""Masked pre-training end to end: without labels, resumed, painted, and fine-tuned from."""

import json
import shutil
import signal
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from convnext.cli import main
from convnext.weights import load_pretrained
from convnext.weights.checkpoint import read_checkpoint

SHORT = ("--image-size", "64", "--epochs", "3", "--batch-size", "8", "--train.log-every-steps", "1")
TINY = (
    "--task.decoder-dim",
    "16",
    "--train.precision",
    "fp32",
    "--device",
    "cpu",
    "--workers",
    "0",
)


@pytest.fixture(scope="module")
def unlabelled(images, tmp_path_factory):
    """The coloured images in one folder, without class folders."""
    folder = tmp_path_factory.mktemp("unlabelled") / "ohne Klassen"
    folder.mkdir()
    for i, path in enumerate(sorted((images / "train").rglob("*.png"))):
        shutil.copy(path, folder / f"图{i}.png")
    return folder


@pytest.fixture(scope="module")
def pretrain_arguments(unlabelled):
    def arguments(out, *more):
        start = ["train", "fcmae_atto", "--data", str(unlabelled), "--out", str(out)]
        return [*start, *SHORT, *TINY, "--workers", "0", *more]

    return arguments


@pytest.fixture(scope="module")
def pretrained(pretrain_arguments, tmp_path_factory):
    out = tmp_path_factory.mktemp("pretrained") / "run"
    assert main(pretrain_arguments(out)) == 0
    return out


def test_a_folder_without_classes_is_enough(pretrained):
    losses = json.loads((pretrained / "evaluation.json").read_text())["loss"]
    assert 0 < losses["val"] < 3
    lines = [json.loads(x) for x in (pretrained / "metrics.jsonl").read_text().splitlines()]
    assert {line["kind"] for line in lines} == {"train", "eval"}
    assert all("top1" not in line for line in lines)
    panels = sorted((pretrained / "reconstructions").iterdir())
    assert panels
    with Image.open(panels[-1]) as picture:
        assert picture.width == 3 * 64 + 2 * 4
    report = (pretrained / "report.html").read_text()
    assert "pre-trained without labels" in report
    assert "data:image/png" in report
    recipe = json.loads((pretrained / "recipe.json").read_text())["recipe"]
    assert recipe["task"]["encoder"] == "convnextv2_atto"
    assert recipe["optim"]["betas"] == [0.9, 0.95]


def test_the_encoder_is_left_for_everyone(pretrained):
    state = load_file(pretrained / "weights" / "model.safetensors")
    assert not [name for name in state if "decoder" in name or "head" in name]
    model, info = load_pretrained(pretrained / "weights", num_classes=4)
    assert info.name == "convnextv2_atto"
    assert "norm is new" in str(info.report)
    task = torch.load(next((pretrained / "checkpoints").glob("best*")), weights_only=True)["task"]
    mine = model.state_dict()["stages.2.blocks.3.dwconv.weight"]
    assert torch.equal(mine, task["network.encoder.stages.2.blocks.3.dwconv.weight"])


def test_fine_tuning_in_one_command(pretrained, images, tmp_path, capsys):
    out = tmp_path / "tuned"
    arguments = ["train", "--data", str(images), "--out", str(out), "--workers", "0"]
    arguments += ["--pretrained", str(pretrained / "weights"), "--epochs", "1", "--device", "cpu"]
    assert main([*arguments, "--image-size", "64", "--batch-size", "8"]) == 0
    said = capsys.readouterr().out
    assert "head is new" in said
    recipe = json.loads((out / "recipe.json").read_text())["recipe"]
    assert recipe["task"]["model"] == "convnextv2_atto"
    assert recipe["optim"]["layer_decay"] < 1


def test_a_published_fine_tuning_recipe_takes_it(pretrained, images, tmp_path):
    out = tmp_path / "tuned"
    arguments = ["train", "convnextv2_atto_fcmae_ft_in1k", "--data", str(images), "--out", str(out)]
    arguments += ["--pretrained", str(pretrained / "weights"), "--epochs", "1", "--workers", "0"]
    arguments += ["--image-size", "32", "--batch-size", "12", "--device", "cpu"]
    assert main(arguments) == 0


def test_the_same_command_resumes_to_the_same_bits(pretrained, pretrain_arguments, start, tmp_path):
    out = tmp_path / "run"
    command = pretrain_arguments(out, "--train.checkpoint-every-steps", "2")
    with start(command) as process:
        while process.poll() is None:
            path = out / "metrics.jsonl"
            if path.exists() and len(path.read_text().splitlines()) >= 3:
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.close()
    with start(command) as process:
        said = process.stdout.read()
    assert process.returncode == 0, said
    whole = pretrained.parent / "whole"
    assert main(pretrain_arguments(whole, "--train.checkpoint-every-steps", "2")) == 0
    one, two = (load_file(p / "weights" / "model.safetensors") for p in (whole, out))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("parallel", "execution"), [("ddp", "sparse"), ("fsdp", "sparse"), ("fsdp", "dense")]
)
def test_two_processes(parallel, execution, pretrain_arguments, start, tmp_path):
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")
    out = tmp_path / "run"
    more = ("--train.parallel", parallel, "--task.execution", execution)
    with start(pretrain_arguments(out, *more), prefix=torchrun) as process:
        said = process.stdout.read()
    assert process.returncode == 0, said
    assert (out / "weights" / "model.safetensors").is_file()
    assert 0 < json.loads((out / "evaluation.json").read_text())["loss"]["val"] < 3


def test_an_average_of_the_weights(pretrain_arguments, tmp_path):
    out = tmp_path / "run"
    assert main(pretrain_arguments(out, "--train.ema-decay", "0.5")) == 0
    lines = [json.loads(x) for x in (out / "metrics.jsonl").read_text().splitlines()]
    scores = {line["weights"]: line["loss"] for line in lines if line["kind"] == "eval"}
    assert set(scores) == {"ema", "model"}
    assert scores["ema"] != scores["model"]


def test_sparse_layout_and_back(pretrained, tmp_path):
    """Weights of a run in the names and shapes of sparse pre-training, and from there again."""
    sparse, back = tmp_path / "sparse.pth", tmp_path / "back.safetensors"
    weights = pretrained / "weights"
    assert main(["weights", "convert", str(weights), str(sparse), "--layout", "fcmae"]) == 0
    assert main(["weights", "convert", str(sparse), str(back)]) == 0
    content = torch.load(sparse, weights_only=True)
    content = content.get("model", content)
    assert content["encoder.stages.0.0.dwconv.kernel"].shape == (49, 40)
    own, again = (read_checkpoint(path).state for path in (weights, back))
    assert own.keys() == again.keys()
    for name in own:
        assert torch.equal(own[name], again[name]), name


def test_reconstruct(pretrained, images, tmp_path, capsys):
    out = tmp_path / "bild.png"
    arguments = ["reconstruct", str(pretrained), str(images / "test"), "--out", str(out)]
    assert main([*arguments, "--images", "3", "--device", "cpu"]) == 0
    with Image.open(out) as picture:
        assert picture.size == (3 * 64 + 2 * 4, 3 * 64 + 2 * 4)
        middle = np.asarray(picture.crop((68, 0, 132, 64)))
    grey = (middle == 128).all(-1).mean()
    assert grey >= 0.74  # of 4 cells one is visible


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image-size", "70"], "image_size 70 cannot be cut into cells"),
        (["--task.mask-ratio", "1.0"], "mask_ratio 1.0 must be in"),
        (["--image-size", "32"], "leaves none of 1 x 1 cells visible"),
        (["--data", "EMPTY"], "no images found"),
        (["--task.mixup", "0.5"], "unknown option '--task.mixup'"),
        (["--task.encoder", "convnextv3"], "unknown model 'convnextv3'"),
    ],
)
def test_mistakes(arguments, message, pretrain_arguments, tmp_path, capsys):
    (tmp_path / "EMPTY").mkdir()
    arguments = [str(tmp_path / a) if a == "EMPTY" else a for a in arguments]
    assert main(pretrain_arguments(tmp_path / "run", *arguments)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_weights_of_another_size_are_refused(pretrained, images, tmp_path, capsys):
    arguments = ["train", "--data", str(images), "--out", str(tmp_path / "run"), "--workers", "0"]
    arguments += ["--pretrained", str(pretrained / "weights"), "--model", "convnextv2_pico"]
    assert main([*arguments, "--epochs", "1"]) == 2
    assert "not of convnextv2_pico" in capsys.readouterr().err


def test_what_cannot_paint(pretrained, run, images, tmp_path, capsys):
    for target, message in ((pretrained / "weights", "has no decoder"), (run, "is a classifier")):
        out = tmp_path / "x.png"
        assert main(["reconstruct", str(target), str(images), "--out", str(out)]) == 2
        assert message in capsys.readouterr().err
        assert not out.exists()


def test_two_processes_do_not_share_a_folder(pretrain_arguments, start, tmp_path, capsys):
    out = tmp_path / "run"
    command = pretrain_arguments(out, "--epochs", "300")
    with start(command) as process:
        while not (out / "metrics.jsonl").exists():
            assert process.poll() is None
        assert main(command) == 2
        assert "another process is training in" in capsys.readouterr().err
        process.kill()
        process.stdout.close()


def test_frozen_features_are_judged(pretrained, images, tmp_path, capsys):
    out = tmp_path / "probe"
    arguments = ["evaluate", str(pretrained), "--data", str(images), "--out", str(out)]
    assert main([*arguments, "--knn", "--linear", "--device", "cpu", "--workers", "0"]) == 0
    result = json.loads((out / "probe.json").read_text())
    assert (result["split"], result["images"], result["train_images"]) == ("test", 12, 36)
    # colours are easy: even hardly trained features tell them apart
    assert result["knn"]["top1"] > 60
    assert result["linear"]["top1"] > 60
    assert "always saying" in capsys.readouterr().out


def test_features_of_a_classifier_too(run, images, tmp_path):
    out = tmp_path / "probe"
    arguments = ["evaluate", str(run), "--data", str(images), "--out", str(out), "--linear"]
    assert main([*arguments, "--image-size", "64", "--device", "cpu", "--workers", "0"]) == 0
    result = json.loads((out / "probe.json").read_text())
    assert "knn" not in result
    assert result["linear_strength"] > 0


def test_tar_shards_need_no_labels(unlabelled, tmp_path):
    shard = tmp_path / "shards" / "images-000.tar"
    shard.parent.mkdir()
    with tarfile.open(shard, "w") as tar:
        for path in sorted(unlabelled.iterdir()):
            tar.add(path, arcname=path.name)
    arguments = ["train", "fcmae_atto", "--data", str(shard.parent), "--out", str(tmp_path / "run")]
    assert main([*arguments, *SHORT, *TINY, "--workers", "0", "--epochs", "1"]) == 0
