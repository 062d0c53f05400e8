"""Detectors from the command line: train, resume, several processes, evaluate, predict."""

import csv
import json
import signal
import time
from contextlib import redirect_stdout
from io import StringIO

import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from safetensors.torch import load_file

from convnext.cli import main
from shapes import write_coco

TINY = [
    *("--task.body-args", '{"depths": [1, 1, 2, 1], "dims": [8, 16, 24, 32]}'),
    *("--task.model-args", '{"fpn_dim": 16, "fc_dim": 32, "mask_convs": 1, "roi_sampled": 32}'),
    *("--image-size", "64", "--device", "cpu", "--train.precision", "fp32", "--workers", "0"),
    *("--batch-size", "4", "--epochs", "3", "--train.log-every-steps", "1"),
]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("shapes"), 16, 8, size=64)


def arguments(shapes, out, *more):
    return ["train", "--data", str(shapes), "--out", str(out), *TINY, *more]


@pytest.fixture(scope="module")
def run(shapes, tmp_path_factory):
    """The folder of a finished run; tests only read it."""
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(arguments(shapes, out)) == 0
    return out


def test_a_run_leaves_weights_scores_results_and_report(shapes, run):
    recipe = json.loads((run / "recipe.json").read_text())["recipe"]
    assert recipe["task"]["masks"]
    assert recipe["data"]["min_size"] == 64
    scores = json.loads((run / "evaluation.json").read_text())["val"]
    assert scores["num_images"] == 8
    report = (run / "report.html").read_text()
    assert "Precision" in report
    for kind, key in (("bbox", "box"), ("segm", "mask")):
        with redirect_stdout(StringIO()):
            truth = COCO(str(shapes / "annotations" / "instances_val.json"))
            found = truth.loadRes(str(run / f"detections_{kind}.json"))
            counted = COCOeval(truth, found, kind)
            counted.evaluate()
            counted.accumulate()
            counted.summarize()
        assert scores[key]["AP"] == pytest.approx(100 * counted.stats[0], abs=1e-9)
        assert scores[key]["AR100"] == pytest.approx(100 * counted.stats[8], abs=1e-9)


def last_step(out):
    path = out / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)


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
def test_two_processes_train_a_cascade(shapes, tmp_path, start, parallel):
    out = tmp_path / "run"
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone")
    process = start(
        arguments(
            *(shapes, out, "--model", "cascade_mask_rcnn_convnext_tiny", "--epochs", "1"),
            *("--train.parallel", parallel, "--train.sync-batch-norm"),
        ),
        launcher,
    )
    text, _ = process.communicate(timeout=240)
    assert process.returncode == 0, text
    assert (out / "report.html").is_file()
    state = load_file(out / "weights" / "model.safetensors")
    counted = [v for n, v in state.items() if n.endswith("num_batches_tracked")]
    assert len(counted) == 12
    assert {int(v) for v in counted} == {4}
    assert all(torch.isfinite(v).all() for v in state.values())


def test_evaluate_gives_the_scores_of_the_run(run, tmp_path, capsys):
    assert main(["evaluate", str(run), "--out", str(tmp_path / "e"), "--device", "cpu"]) == 0
    again = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    assert again["box"] == json.loads((run / "evaluation.json").read_text())["val"]["box"]
    assert "rectangle" in capsys.readouterr().out


def test_evaluate_in_views_and_on_other_data(run, tmp_path, shapes):
    other = write_coco(tmp_path / "other", 2, 3, size=64, seed=5)
    args = ["evaluate", str(run / "weights"), "--data", str(other), "--tta", "--device", "cpu"]
    assert main([*args, "--out", str(tmp_path / "e")]) == 0
    scores = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    assert scores["num_images"] == 3


def test_predict_writes_table_results_and_pictures(run, shapes, tmp_path, capsys):
    folder = tmp_path / "图片"
    folder.mkdir()
    for i in range(3):
        Image.open(shapes / "val" / f"val_000{i}.png").resize((90 + i, 50)).save(
            folder / f"画_{i}.png"
        )
    (folder / "broken.png").write_bytes(b"no picture")
    paths = [tmp_path / name for name in ("o.csv", "o.json", "drawn")]
    given = [a for o, p in zip(("--csv", "--json", "--draw"), paths, strict=True) for a in (o, p)]
    args = ["predict", str(run), str(folder), "--threshold", "0.01", "--device", "cpu"]
    assert main([*args, *map(str, given)]) == 1
    assert "broken.png" in capsys.readouterr().err
    with paths[0].open() as file:
        rows = list(csv.DictReader(file))
    results = json.loads(paths[1].read_text())
    assert [row["error"] != "" for row in rows] == [False] * len(results) + [True]
    assert {tuple(r["segmentation"]["size"]) for r in results} <= {(50, 90), (50, 91), (50, 92)}
    assert all(0 <= r["bbox"][0] <= r["bbox"][0] + r["bbox"][2] <= 92.001 for r in results)
    assert {r["category"] for r in results} <= {"rectangle", "ellipse", "triangle"}
    assert len(list(paths[2].glob("*.png"))) == 3
    assert main([*args[:-4], "--tta", "--device", "cpu"]) == 1  # lines, in views


def test_boxes_only(tmp_path):
    data = write_coco(tmp_path / "data", 8, 4, size=64, masks=False)
    out = tmp_path / "run"
    assert main(arguments(data, out, "--epochs", "1")) == 0
    assert not json.loads((out / "recipe.json").read_text())["recipe"]["task"]["masks"]
    assert not (out / "detections_segm.json").exists()
    scores = json.loads((out / "evaluation.json").read_text())["val"]
    assert scores["mask"] is None


def test_weights_of_a_detector_for_other_classes_start_another(run, tmp_path, capsys):
    data = write_coco(tmp_path / "data", 8, 4, size=64)
    for path in (data / "annotations").iterdir():  # one class less
        content = json.loads(path.read_text())
        content["categories"] = content["categories"][:2]
        kept = {c["id"] for c in content["categories"]}
        content["annotations"] = [a for a in content["annotations"] if a["category_id"] in kept]
        path.write_text(json.dumps(content))
    more = ("--epochs", "1", "--pretrained", str(run / "weights"), "--task.drop-path-rate", "0")
    assert main(arguments(data, tmp_path / "run", *more)) == 0
    assert "predictors are new" in capsys.readouterr().out


MISTAKES = {
    "masks of boxes": (["--task.masks"], "has boxes but no masks"),
    "too large a batch": (["--batch-size", "99"], "larger than the 8 training images"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_end_with_one_message(case, tmp_path, capsys):
    given, message = MISTAKES[case]
    data = write_coco(tmp_path / "data", 8, 4, size=64, masks=False)
    assert main(arguments(data, tmp_path / "run", *given)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_options_of_the_other_kind_are_refused(run, shapes, capsys):
    assert main(["predict", str(run), str(shapes / "val"), "--cam", "x"]) == 2
    assert "--cam is for classifiers" in capsys.readouterr().err


@pytest.mark.slow
def test_shapes_are_learnt(tmp_path):
    """A small detector from scratch: boxes and masks of the right class within two minutes."""
    data = write_coco(tmp_path / "data", 64, 24, size=96, seed=3)
    out = tmp_path / "run"
    fields = '{"fpn_dim": 32, "fc_dim": 64, "mask_convs": 2, "roi_sampled": 64}'
    args = ["train", "--data", str(data), "--out", str(out), "--epochs", "16", "--image-size", "96"]
    args += ["--model", "mask_rcnn_convnext_tiny", "--task.drop-path-rate", "0", "--workers", "0"]
    args += ["--task.body-args", '{"depths": [1, 1, 2, 1], "dims": [16, 32, 64, 96]}']
    args += ["--task.model-args", fields, "--lr", "1e-3", "--device", "cpu"]
    assert main([*args, "--train.eval-every-epochs", "0"]) == 0
    scores = json.loads((out / "evaluation.json").read_text())["val"]
    assert scores["box"]["AP50"] > 45
    assert scores["mask"]["AP50"] > 45


def test_a_json_file_is_data_not_a_recipe(shapes, tmp_path):
    path = shapes / "annotations" / "instances_train.json"
    arguments_ = ["train", "--data", str(path), "--out", str(tmp_path / "run"), *TINY]
    assert main([*arguments_, "--epochs", "1"]) == 0


def test_fields_that_are_given_join_those_that_are_chosen(shapes, run):
    chosen = json.loads((run / "recipe.json").read_text())["recipe"]["task"]["model_args"]
    assert chosen["fpn_dim"] == 16  # given
    assert chosen["rpn_proposals"] == [400, 200]  # chosen
