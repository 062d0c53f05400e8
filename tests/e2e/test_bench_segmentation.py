"""`convnext bench` of segmentation networks."""

import csv
import json

import pytest

from convnext.cli import main

ATTO = "upernet_convnextv2_atto"
QUICK = ("--rounds", "1", "--seconds", "0.01", "--device", "cpu")


def test_counts_beside_those_of_the_papers(tmp_path, capsys):
    file = tmp_path / "bench.json"
    assert main(["bench", "--like", "table4", "--json", str(file)]) == 0
    rows = json.loads(file.read_text())["rows"]
    assert [row["size"] for row in rows] == ["2048x512"] * 3 + ["2560x640"] * 3
    for row in rows:
        assert abs(row["gflops"] - row["paper_gflops"]) < 0.53
        assert round(row["params"] / 1e6) == row["paper_params"]
        assert row["miou"] < row["miou_multi_scale"]
    printed = capsys.readouterr().out
    assert "938.68" in printed
    assert "without the auxiliary head" in printed
    assert main(["bench", "--like", "v2table7", "upernet_convnextv2_huge"]) == 0
    printed = capsys.readouterr().out
    assert "3272.17" in printed
    assert "5112.73" in printed
    assert "convnextv2_base" not in printed


def test_lines_of_a_network_by_its_name(tmp_path):
    file = tmp_path / "bench.json"
    names = ["upernet_convnext_base", "upernet_timm:resnet18"]
    assert main(["bench", *names, "--json", str(file)]) == 0
    rows = json.loads(file.read_text())["rows"]
    assert [row["size"] for row in rows] == ["2048x512", "2560x640", "2048x512"]
    assert [row["paper_gflops"] for row in rows] == [1170, 1828, None]


def test_timing(tmp_path, capsys):
    files = [tmp_path / f"bench.{suffix}" for suffix in ("csv", "json")]
    arguments = ["bench", ATTO, *QUICK, "--phases", "inference", "--sizes", "64"]
    arguments += ["--dtypes", "fp32", "bf16", "--batch-sizes", "2"]
    assert main([*arguments, "--csv", str(files[0]), "--json", str(files[1])]) == 0
    rows = json.loads(files[1].read_text())["rows"]
    assert [(row["dtype"], row["batch_size"]) for row in rows] == [("fp32", 2), ("bf16", 2)]
    assert all(row["images_per_second"] > 0 for row in rows)
    table = list(csv.DictReader(files[0].read_text().splitlines()))
    assert [row["segmenter"] for row in table] == [ATTO] * 2
    assert "timed: the whole image at once" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([ATTO, "convnext_tiny"], "bench them apart"),
        ([ATTO, "mask_rcnn_convnext_tiny"], "bench them apart"),
        (["upernet_convnexv2_atto"], "did you mean upernet_convnextv2_atto"),
        (["--like", "table4", ATTO], "table4 has no 'upernet_convnextv2_atto'; it has"),
        (["--like", "table1", ATTO], "table1 has no 'upernet_convnextv2_atto'; it has"),
        ([ATTO, "--sizes", "16"], "both sides must be at least 32"),
        ([ATTO, "--phases", "training"], "of segmentation networks only --phases inference"),
        ([ATTO, "--sizes", "64", "96"], "segmentation networks take one of each"),
        ([ATTO, "--dtypes", "tf32"], "tf32 is arithmetic of CUDA"),
    ],
)
def test_mistakes(arguments, message, capsys):
    assert main(["bench", *arguments, "--device", "cpu"]) == 2
    assert message in capsys.readouterr().err
