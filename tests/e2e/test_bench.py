"""`convnext bench` on small networks."""

import csv
import json
import xml.etree.ElementTree as ET

import pytest

from convnext.cli import main
from convnext.published.throughput import PAIRS, ROWS, SETTINGS, rows_of
from convnext.run.bench import like
from convnext.run.bench_network import build

QUICK = ("--rounds", "2", "--seconds", "0.02", "--device", "cpu")
INFER, TRAIN = ("--phases", "inference"), ("--phases", "training")


def test_ours_and_others_side_by_side(tmp_path, capsys):
    names = ["convnext_atto", "timm:resnet10t", "torchvision:squeezenet1_1"]
    files = [tmp_path / f"bench.{suffix}" for suffix in ("csv", "json")]
    arguments = [
        "bench",
        *names,
        "--sizes",
        "64",
        "--batch-sizes",
        "1",
        "2",
        *QUICK,
        "--phases",
        "inference",
    ]
    assert main([*arguments, "--csv", str(files[0]), "--json", str(files[1])]) == 0
    result = json.loads(files[1].read_text())
    rows = result["rows"]
    assert [(r["network"], r["batch_size"]) for r in rows] == [
        (n, b) for b in (1, 2) for n in names
    ]
    for row in rows:
        assert len(row["seconds_a_batch"]) == 2
        assert row["images_per_second"] > 0
        assert row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert row["training_mib"] is None
    assert rows[0]["params"] == 3_695_520
    assert result["versions"]["torch"]
    table = list(csv.DictReader(files[0].read_text().splitlines()))
    assert [row["network"] for row in table] == [r["network"] for r in rows]
    assert "paper: multiply-accumulates" in capsys.readouterr().out


def test_training_and_its_memory(tmp_path):
    file = tmp_path / "bench.json"
    arguments = ["bench", "convnext_atto", "--sizes", "32", "64", "--batch-sizes", "4", *QUICK]
    assert main([*arguments, *TRAIN, "--dtypes", "bf16", "--json", str(file)]) == 0
    small, large = json.loads(file.read_text())["rows"]
    assert 0 < small["training_mib"] <= large["training_mib"]
    assert small["training_images_per_second"] > 0
    assert "p50_ms" not in small


def test_another_counting_rule(tmp_path):
    counted = {}
    for rule in ("paper", "operations", "fvcore"):
        file = tmp_path / f"{rule}.json"
        arguments = ["bench", "convnext_atto", "--sizes", "32", "--batch-sizes", "1", *QUICK]
        assert main([*arguments, *INFER, "--count", rule, "--json", str(file)]) == 0
        counted[rule] = json.loads(file.read_text())["rows"][0]["gmacs"]
    assert counted["operations"] == 2 * counted["paper"]
    assert counted["fvcore"] > counted["paper"]


def test_bubble_plot(tmp_path, capsys):
    file = tmp_path / "plot.svg"
    arguments = ["bench", "convnextv2_atto", "convnextv2_femto", "--batch-sizes", "1", *QUICK]
    assert main([*arguments, *INFER, "--plot", str(file)]) == 0
    circles = [e for e in ET.parse(file).getroot().iter() if e.tag.endswith("circle")]
    assert len(circles) == 2
    arguments = ["bench", "convnext_atto", "--sizes", "32", "--batch-sizes", "1", *QUICK]
    assert main([*arguments, *INFER, "--plot", str(file)]) == 2
    assert "nothing to plot" in capsys.readouterr().err


def test_settings_of_the_tables():
    config = like("table12", device="cuda:0")
    assert config.dtypes == ("tf32",)
    assert config.memory_formats == ("channels_last",)
    assert ("convnext_tiny", 224) in config.networks
    assert like("table12", device="cpu").dtypes == ("fp32",)
    assert like("table2", device="cpu").train
    assert like("table2", device="cpu", networks=["convnext_isotropic_small"]).networks == (
        ("convnext_isotropic_small", 224),
    )
    with pytest.raises(ValueError, match="table12 has no 'convnext_atto'"):
        like("table12", device="cpu", networks=["convnext_atto"])


def test_printed_ratio_beside_the_measured_one(monkeypatch, tmp_path):
    monkeypatch.setitem(PAIRS, ("convnext_tiny", 224), "timm:swin_tiny_patch4_window7_224")
    file = tmp_path / "bench.json"
    names = ["convnext_tiny", "timm:swin_tiny_patch4_window7_224"]
    arguments = ["bench", *names, "--like", "table12", "--batch-sizes", "1", *QUICK]
    assert main([*arguments, "--json", str(file)]) == 0
    rows = {row["network"]: row for row in json.loads(file.read_text())["rows"]}
    ours = rows["convnext_tiny"]
    assert ours["paper_ratio"] == pytest.approx(1943.5 / 1325.6, abs=1e-3)
    assert ours["ratio"] > 0
    assert rows["timm:swin_tiny_patch4_window7_224"]["ratio"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no networks"),
        (["convnext_tinny"], "did you mean convnext_tiny"),
        (["timm:convnext_tinny"], "unknown timm model"),
        (["torchvision:resnet55"], "unknown torchvision model"),
        (["keras:resnet50"], "unknown library"),
        (["convnext_atto", "--dtypes", "tf32"], "tf32 is arithmetic of CUDA"),
        (["convnext_atto", "--rounds", "0"], "must be at least 1"),
        (["convnext_atto", "--sizes", "16"], "does not take images of 16 px"),
    ],
)
def test_mistakes(arguments, message, capsys):
    assert main(["bench", *arguments, "--device", "cpu"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("network", sorted({row.network for row in ROWS if ":" in row.network}))
def test_every_network_of_the_tables_exists(network):
    import torch

    row = next(row for row in ROWS if row.network == network)
    with torch.device("meta"):
        model = build(network, row.size)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    if row.params is not None:
        assert millions == pytest.approx(row.params, rel=0.03)


def test_every_table_has_settings_and_pairs():
    assert set(SETTINGS) == {row.table for row in ROWS}
    for (ours, size), theirs in PAIRS.items():
        tables = [
            t
            for t in SETTINGS
            if {(ours, size), (theirs, size)} <= {(row.network, row.size) for row in rows_of(t)}
        ]
        assert tables, (ours, size)
