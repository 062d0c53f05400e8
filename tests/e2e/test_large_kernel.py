"""A sparse SLaK from training to its merged form, with the commands that a user gives."""

import csv
import json

import pytest
import torch
from safetensors.torch import load_file

from convnext.cli import main
from convnext.weights import load_pretrained

SLAK = (
    *("--task.model", "slak_tiny", "--task.layer-scale-init-value", "0.1"),
    "--task.model-args",
    '{"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8], "kernel_size": [15, 9, 7, 5]}',
    *("--optim.sparsity.sparsity", "0.4", "--optim.sparsity.update-every", "3"),
)


@pytest.fixture(scope="module")
def slak(tmp_path_factory, train_arguments):
    out = tmp_path_factory.mktemp("large") / "slak"
    assert main(train_arguments(out, *SLAK)) == 0
    return out


def test_sparsity_is_in_logs_checkpoints_and_report(slak):
    lines = [json.loads(line) for line in (slak / "metrics.jsonl").read_text().splitlines()]
    (share,) = {line["sparsity"] for line in lines if line["kind"] == "train"}
    assert share == pytest.approx(0.4, abs=1e-3)
    moves = [line for line in lines if line["kind"] == "masks"]
    assert [line["step"] for line in moves] == [3, 6, 9]
    newest = max((slak / "checkpoints").glob("step_*.pt"))
    masks = torch.load(newest, weights_only=True)["masks"]
    weights = load_file(slak / "weights" / "model.safetensors")
    active = sum(int(mask.sum()) for mask in masks.values())
    assert active == round(0.6 * sum(mask.numel() for mask in masks.values()))
    for name, mask in masks.items():  # the run's last weights may not be its best
        assert weights[name.removeprefix("network.")].shape == mask.shape
    report = (slak / "report.html").read_text()
    assert "Not zero" in report


def test_inspect_counts_both(slak, capsys):
    assert main(["weights", "inspect", str(slak / "weights")]) == 0
    assert "non-zero of" in capsys.readouterr().out


def test_merged_folder_answers_the_same(slak, images, tmp_path, capsys):
    merged = tmp_path / "merged"
    assert main(["weights", "merge", str(slak), str(merged)]) == 0
    network, info = load_pretrained(merged)
    assert network.config.merged
    assert info.labels
    answers = []
    for number, target in enumerate((slak, merged)):
        file = tmp_path / f"{number}.csv"
        assert main(["predict", str(target), str(images / "test"), "--csv", str(file)]) == 0
        rows = list(csv.DictReader(file.read_text().splitlines()))
        answers.append(rows)
    for own, other in zip(*answers, strict=True):
        assert [own[key] for key in ("file", "label_1")] == [other["file"], other["label_1"]]
        assert float(own["confidence_1"]) == pytest.approx(float(other["confidence_1"]), abs=1e-5)
    assert main(["weights", "merge", str(merged), str(tmp_path / "again")]) == 2
    assert "merged already" in capsys.readouterr().err


def test_bench_measures_the_merged_form(tmp_path, capsys):
    file = tmp_path / "bench.json"
    arguments = ["bench", "slak_tiny", "merged:slak_tiny", "--sizes", "32", "--batch-sizes", "1"]
    quick = ["--rounds", "2", "--seconds", "0.05", "--phases", "inference"]
    assert main([*arguments, *quick, "--json", str(file)]) == 0
    trained, merged = json.loads(file.read_text())["rows"]
    assert trained["params"] == 50_703_838
    assert merged["params"] < trained["params"]
    assert main(["bench", "merged:nothing", *quick]) == 2
    assert "nothing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--optim.sparsity.sparsity", "1.0"), "from 0 (dense) to below 1"),
        (("--optim.sparsity.only", "nothing"), "matches no weight that can be sparse"),
        (("--task.model-args", '{"kernel_size": 50}'), "50 must be odd"),
    ],
)
def test_mistakes(arguments, message, train_arguments, tmp_path, capsys):
    assert main(train_arguments(tmp_path / "run", *SLAK, *arguments)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
