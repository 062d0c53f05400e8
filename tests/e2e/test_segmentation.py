"""Segmentation networks from the command line: train, resume, several processes, evaluate."""

import json
import signal
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.metrics import confusion_matrix

from convnext.cli import main
from convnext.run.segmentation_loading import load_trained_segmenter
from convnext.run.segmenting import segment_picture
from shapes import write_segmentation

TINY = [
    *("--task.body-args", '{"depths": [1, 1, 2, 1], "dims": [8, 16, 24, 32]}'),
    *("--task.model-args", '{"head_dim": 16, "aux_dim": 8}'),
    *("--image-size", "64", "--device", "cpu", "--train.precision", "fp32", "--workers", "0"),
    *("--batch-size", "4", "--epochs", "3", "--train.log-every-steps", "1"),
]
NAMES = ["background", "rectangle", "ellipse", "triangle"]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return write_segmentation(tmp_path_factory.mktemp("shapes") / "data", 16, 8)


def arguments(shapes, out, *more):
    return ["train", "--data", str(shapes), "--out", str(out), *TINY, *more]


@pytest.fixture(scope="module")
def run(shapes, tmp_path_factory):
    """The folder of a finished run; tests only read it."""
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(arguments(shapes, out)) == 0
    return out


def last_step(out):
    path = out / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)


def test_a_run_leaves_weights_scores_and_report(shapes, run):
    recipe = json.loads((run / "recipe.json").read_text())["recipe"]
    assert recipe["data"]["min_size"] == 64
    assert recipe["task"]["model_args"] == {"head_dim": 16, "aux_dim": 8}
    scores = json.loads((run / "evaluation.json").read_text())["val"]
    assert scores["num_images"] == 8
    assert [c["name"] for c in scores["per_class"]] == NAMES
    loaded = load_trained_segmenter(str(run), torch.device("cpu"))
    assert list(loaded.labels) == NAMES
    counts = 0
    for path in sorted((shapes / "images" / "val").iterdir()):
        truth = np.array(Image.open(shapes / "masks" / "val" / path.name))
        picture = Image.open(path).convert("RGB")
        said = segment_picture(loaded.network, picture, loaded.data, torch.device("cpu"))
        kept = truth != 255
        counts = counts + confusion_matrix(truth[kept], said[kept], labels=range(4))
    assert scores["confusion"] == counts.tolist()
    assert "mIoU" in (run / "report.html").read_text()


def test_a_killed_run_resumes_to_the_same_bits(shapes, run, tmp_path, start):
    out = tmp_path / "killed"
    more = ("--train.checkpoint-every-steps", "2")
    process = start(arguments(shapes, out, *more))
    end = time.monotonic() + 120
    while last_step(out) < 5 and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert main(arguments(shapes, out, *more)) == 0
    one, other = (load_file(folder / "weights" / "model.safetensors") for folder in (run, out))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_train_with_one_image_each(tmp_path, start, parallel):
    """Batch norms see both; the images have different numbers of windows."""
    data = write_segmentation(tmp_path / "data", 4, 3, vary=True)
    out = tmp_path / "run"
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone")
    process = start(
        arguments(
            *(data, out, "--epochs", "1", "--batch-size", "4", "--image-size", "0"),
            *("--data.window", "40", "--data.stride", "20", "--train.micro-batch", "1"),
            *("--train.parallel", parallel, "--train.sync-batch-norm"),
        ),
        launcher,
    )
    text, _ = process.communicate(timeout=240)
    assert process.returncode == 0, text
    assert (out / "report.html").is_file()
    state = load_file(out / "weights" / "model.safetensors")
    assert all(torch.isfinite(v).all() for v in state.values())
    counted = {int(v) for n, v in state.items() if n.endswith("num_batches_tracked")}
    assert counted == {2}
    assert main(["evaluate", str(out), "--out", str(tmp_path / "e"), "--device", "cpu"]) == 0
    again = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    assert (
        again["confusion"] == json.loads((out / "evaluation.json").read_text())["val"]["confusion"]
    )


def test_evaluate_in_views_and_on_other_data(run, tmp_path, capsys):
    other = write_segmentation(tmp_path / "other", 2, 3, seed=5)
    args = ["evaluate", str(run / "weights"), "--data", str(other), "--tta", "--device", "cpu"]
    assert main([*args, "--out", str(tmp_path / "e")]) == 0
    scores = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    assert scores["num_images"] == 3
    assert "ellipse" in capsys.readouterr().out


@pytest.mark.parametrize("layout", ["ade20k", "voc", "cityscapes"])
def test_other_layouts_train(tmp_path, layout):
    data = write_segmentation(tmp_path / "data", 4, 2, layout=layout)
    out = tmp_path / "run"
    more = ("--model", "upernet_convnext_tiny") if layout == "voc" else ()
    assert main(arguments(data, out, "--epochs", "1", *more)) == 0
    scores = json.loads((out / "evaluation.json").read_text())["val"]
    assert len(scores["per_class"]) == {"ade20k": 150, "voc": 21, "cityscapes": 19}[layout]


def test_weights_for_other_classes_start_another(run, tmp_path, capsys):
    data = write_segmentation(tmp_path / "data", 8, 4)
    for path in (data / "masks").rglob("*.png"):  # one class less
        mask = np.array(Image.open(path))
        mask[mask == 3] = 0
        Image.fromarray(mask).save(path)
    (data / "classes.txt").write_text("\n".join(NAMES[:3]) + "\n")
    more = ("--epochs", "1", "--pretrained", str(run / "weights"), "--task.drop-path-rate", "0")
    assert main(arguments(data, tmp_path / "run", *more)) == 0
    assert "predictors are new" in capsys.readouterr().out


def test_balanced_classes_and_dice(shapes, tmp_path, capsys):
    more = ("--task.class-weights", "balanced", "--task.dice-weight", "1", "--epochs", "1")
    assert main(arguments(shapes, tmp_path / "run", *more)) == 0
    assert "weights of the classes" in capsys.readouterr().out


def test_a_published_recipe_of_given_length(shapes, tmp_path):
    out = tmp_path / "run"
    args = arguments(shapes, out, "--pretrained", "", "--data.crop-size", "64")
    args += ["--optim.warmup-steps", "1", "--train.micro-batch", "4"]
    assert main([*args[:1], "upernet_convnext_tiny_ade20k", *args[1:]]) == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert max(line["step"] for line in lines) == 12


def spoilt(tmp_path, change):
    data = write_segmentation(tmp_path / "data", 6, 3)
    change(data)
    return data


def _outside(data):
    path = sorted((data / "masks" / "train").iterdir())[0]
    mask = np.array(Image.open(path))
    mask[:5, :5] = 77
    Image.fromarray(mask).save(path)


def _other_size(data):
    path = sorted((data / "masks" / "train").iterdir())[0]
    Image.open(path).resize((50, 40)).save(path)


def _missing(data):
    sorted((data / "masks" / "train").iterdir())[0].unlink()


def _ignored(data):
    for path in (data / "masks" / "train").iterdir():
        Image.fromarray(np.full((64, 64), 255, np.uint8)).save(path)


MISTAKES = {
    "a value outside the classes": (_outside, ("77", ".png")),
    "a mask of another size": (_other_size, ("50x40", ".png")),
    "a missing mask": (_missing, ("mask", ".png")),
    "nothing that counts": (_ignored, ("ignored",)),
}


def test_doctor_reads_masks_as_training_would(tmp_path, capsys):
    data = str(spoilt(tmp_path, _outside))
    assert main(["doctor", "--data", data, "--ignore-values", "77", "255"]) == 0
    assert main(["doctor", "--data", data, "--masks", "instances"]) == 0
    (tmp_path / "plain").mkdir()
    for rest in ([], ["--data", str(tmp_path / "plain")]):
        assert main(["doctor", *rest, "--reduce-zero-label", "no"]) == 2
        assert "--reduce-zero-label is for " in capsys.readouterr().err


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_end_with_one_message_before_training(case, tmp_path, capsys):
    change, words = MISTAKES[case]
    data = spoilt(tmp_path, change)
    assert main(["doctor", "--data", str(data)]) == 1
    said = capsys.readouterr().out
    assert main(arguments(data, tmp_path / "run")) == 2
    message = capsys.readouterr().err
    for word in words:
        assert word in said
        assert word in message
    assert len(message.strip().splitlines()) == 1
