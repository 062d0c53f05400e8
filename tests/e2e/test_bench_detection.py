"""`convnext bench`, `weights` and `models` of detectors."""

import csv
import json

import pytest
import torch

from convnext.cli import main
from convnext.models.mask_rcnn import MaskRCNN, MaskRCNNConfig
from convnext.weights.detection import load_detector, save_detector

ATTO = "mask_rcnn_convnextv2_atto"
QUICK = ("--rounds", "1", "--seconds", "0.01", "--device", "cpu")


def test_counts_beside_those_of_the_paper(tmp_path, capsys):
    file = tmp_path / "bench.json"
    assert main(["bench", "--like", "table3", "--json", str(file)]) == 0
    rows = json.loads(file.read_text())["rows"]
    assert len(rows) == 7
    for row in rows:
        assert round(row["gflops"]) == row["paper_gflops"]
        assert round(row["params"] / 1e6) == row["paper_params"]
    assert (rows[3]["data"], rows[4]["data"]) == ("IN-1K", "IN-22K")
    printed = capsys.readouterr().out
    assert "262.11" in printed
    assert "1000 regions in each box head" in printed
    assert main(["bench", "--like", "v2table6", "--json", str(file)]) == 0
    rows = json.loads(file.read_text())["rows"]
    assert [round(row["gflops"]) for row in rows] == [486, 875, 2525]


def test_timing(tmp_path):
    files = [tmp_path / f"bench.{suffix}" for suffix in ("csv", "json")]
    arguments = ["bench", ATTO, *QUICK, "--phases", "inference", "--sizes", "64"]
    dtype = "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "fp32"  # else a minute
    arguments += ["--dtypes", dtype]
    assert main([*arguments, "--csv", str(files[0]), "--json", str(files[1])]) == 0
    result = json.loads(files[1].read_text())
    assert [row["dtype"] for row in result["rows"]] == [dtype]
    assert all(row["images_per_second"] > 0 for row in result["rows"])
    assert result["versions"]["torch"]
    table = list(csv.DictReader(files[0].read_text().splitlines()))
    assert [row["size"] for row in table] == ["64x64"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([ATTO, "convnext_tiny"], "bench them apart"),
        (["mask_rcnn_convnexv2_atto"], "did you mean mask_rcnn_convnextv2_atto"),
        (["--like", "table3", ATTO], "table3 has no 'mask_rcnn_convnextv2_atto'; it has"),
        ([ATTO, "--sizes", "500"], "both sides must be multiples of 32"),
        ([ATTO, "--phases", "training"], "only --phases inference"),
        ([ATTO, "--count", "fvcore"], "only --phases inference"),
        ([ATTO, "--sizes", "64", "96"], "one of each"),
        ([ATTO, "--dtypes", "tf32"], "tf32 is arithmetic of CUDA"),
        ([ATTO, "--rounds", "0"], "must be at least 1"),
        (["mask_rcnn_timm:vit_tiny_patch16_224"], "maps of strides"),
    ],
)
def test_mistakes(arguments, message, capsys):
    assert main(["bench", *arguments, "--device", "cpu"]) == 2
    assert message in capsys.readouterr().err


def test_lists(capsys):
    assert main(["weights", "list", "rcnn"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert "box AP" in lines[0]
    assert "top-1" not in lines[0]
    assert main(["weights", "list", "convnext_tiny*", "--json"]) == 0
    assert "box AP" not in capsys.readouterr().out
    assert main(["weights", "list", "*convnext_tiny*", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["top-1"] is None for row in rows} == {True, False}
    assert all(set(row) == set(rows[0]) for row in rows)
    assert main(["models", "mask_rcnn_convnext_tiny", "--json"]) == 0
    row, cascade = json.loads(capsys.readouterr().out)
    assert cascade["parameters"] == 85_930_578
    assert (row["parameters"], row["GFLOPs at 1280x800"]) == (48_095_376, "262.114")
    assert (row["best box AP"], row["weights"]) == (46.2, "in1k_coco")


def test_weights_of_a_detector_from_the_command_line(tmp_path, capsys):
    config = MaskRCNNConfig(backbone="convnext_atto", num_classes=2, fpn_dim=8, fc_dim=16)
    model = MaskRCNN(config)
    folder = save_detector(model, tmp_path / "first", labels=["cat", "dog"])
    target = str(tmp_path / "mm.pth")
    assert main(["weights", "convert", str(folder), target, "--layout", "openmmlab"]) == 0
    assert main(["weights", "inspect", target]) == 0
    printed = capsys.readouterr().out
    for part in ("openmmlab", "convnext_atto", "Mask R-CNN of 8 channels", "cat, dog"):
        assert part in printed
    loaded, info = load_detector(target)
    assert info.labels == ("cat", "dog")
    state = model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
    assert main(["weights", "convert", target, target, "--layout", "torchvision"]) == 2
    assert "unknown layout of a detector 'torchvision'" in capsys.readouterr().err
