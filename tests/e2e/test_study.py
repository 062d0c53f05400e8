"""`convnext roadmap` and `convnext ablate` on tiny images: whole, stopped and gone on with."""

import csv
import json
import signal
import time
import xml.etree.ElementTree as ET

import pytest

from convnext.cli import main

SHORT = ("--image-size", "32", "--epochs", "1", "--batch-size", "12", "--workers", "0")
ROAD = ("--width-scale", "0.125", "--device", "cpu", "--precision", "fp32", *SHORT)
STEPS = ("resnet", "depthwise", "kernel11", "separate_downsampling")


def rows_of(out):
    return json.loads((out / "ablation.json").read_text())["rows"]


@pytest.fixture(scope="module")
def road(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("road") / "study"
    arguments = ["roadmap", "--data", str(images), "--out", str(out), "--seeds", "2", *ROAD]
    arguments += ["--steps", *STEPS]
    assert main(arguments) == 0
    return out, arguments


def test_the_road_has_a_table_and_a_figure(road):
    out, _ = road
    rows = rows_of(out)
    assert [row["variant"] for row in rows] == list(STEPS)
    assert all(len(row["runs"]) == 2 and row["std"] is not None for row in rows)
    assert [row["adopted"] for row in rows] == [True, True, False, True]
    assert rows[0]["paper_top1"] == 78.82
    assert rows[1]["paper_change"] == pytest.approx(78.28 - 78.82)
    # the side road is compared with what it left, and what follows not with it
    assert rows[3]["paper_change"] == pytest.approx(81.97 - 78.28)
    assert rows[3]["change"] == pytest.approx(rows[3]["top1"] - rows[1]["top1"], abs=2e-3)
    table = list(csv.DictReader((out / "ablation.csv").read_text().splitlines()))
    assert [float(row["top1"]) for row in table] == [row["top1"] for row in rows]
    figure = ET.parse(out / "ablation.svg").getroot()
    texts = " ".join(t.text or "" for t in figure.iter() if t.tag.endswith("text"))
    for row in rows:
        assert row["title"] in texts
        assert f"{row['top1']:.2f} ± {row['std']:.2f}" in texts
    assert "hatched" in texts
    recipe = json.loads((out / "ablation.json").read_text())["recipe"]
    assert recipe["train"]["ema_decay"] is None


def test_what_is_done_is_not_done_again(road, capsys):
    out, arguments = road
    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("evaluation.json")}
    before = rows_of(out)
    assert main(arguments) == 0
    assert "0 of 8 runs to do" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in out.rglob("evaluation.json")} == stamps
    assert rows_of(out) == before


def test_another_recipe_in_the_same_folder_is_refused(road, capsys):
    _, arguments = road
    assert main([*arguments, "--lr", "0.5"]) == 2
    assert "other settings" in capsys.readouterr().err


def test_a_killed_road_goes_on_to_the_same_result(road, images, tmp_path, start):
    out = tmp_path / "study"
    command = ["roadmap", "--data", str(images), "--out", str(out), *ROAD, "--steps", *STEPS[:2]]
    with start(command) as process:
        end = time.monotonic() + 120
        while not (out / "resnet" / "seed-0" / "evaluation.json").exists():
            assert time.monotonic() < end
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    with start(command) as process:
        said = process.stdout.read()
    assert process.returncode == 0, said
    assert "1 of 2 runs to do" in said
    whole, cut = rows_of(road[0]), rows_of(out)
    assert [row["runs"][0] for row in whole[:2]] == [row["runs"][0] for row in cut]


def test_runs_at_the_same_time_reach_the_same(road, images, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out = tmp_path / "study"
    command = ["roadmap", "--data", str(images), "--out", str(out), *ROAD, "--jobs", "2"]
    assert main([*command, "--steps", *STEPS[:2]]) == 0
    assert len(rows_of(out)[0]["runs"]) == 1
    assert (out / "resnet" / "seed-0.log").read_text().count("top-1") >= 1
    assert [r["runs"][0] for r in rows_of(out)] == [r["runs"][0] for r in rows_of(road[0])[:2]]


def test_a_run_that_fails_in_its_process_is_named(images, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CONVNEXT_OPS", "nonsense")  # makes the child fail, not this process
    out = tmp_path / "study"
    command = ["roadmap", "--data", str(images), "--out", str(out), *ROAD, "--jobs", "2"]
    assert main([*command, "--steps", *STEPS[-1:], "resnet"]) == 2
    assert "ended with status" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "depthwize"], "did you mean depthwise"),
        (["--width-scale", "0"], "width_scale 0.0 must be above 0"),
        (["--seeds", "0"], "seeds is 0"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(
    arguments, message, images, tmp_path, capsys
):
    out = tmp_path / "study"
    assert main(["roadmap", "--data", str(images), "--out", str(out), *ROAD, *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_any_fields_of_any_network(images, tmp_path, capsys):
    out, variants = tmp_path / "study", tmp_path / "variants.json"
    narrow = {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}
    variants.write_text(
        json.dumps({"plain": narrow, "grn": {**narrow, "grn": True}, "v2": {"model": "x"}})
    )
    command = ["ablate", "convnext_atto", "--data", str(images), "--out", str(out), *SHORT]
    assert main([*command, "--variants", str(variants)]) == 2
    assert "unknown model 'x'" in capsys.readouterr().err
    variants.write_text(json.dumps({"plain": narrow, "grn": {**narrow, "grn": True}}))
    assert main([*command, "--variants", str(variants)]) == 0
    said = capsys.readouterr().out
    assert "paper" not in said.splitlines()[-1]
    plain, grn = rows_of(out)
    assert grn["params"] > plain["params"]


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ("{", "no valid JSON"),
        ("{}", "must be an object"),
        ('{"a": 3}', "variant 'a' must be an object"),
        ('{"../a": {}}', "cannot be a folder's name"),
        ('{"a": {"widht": 3}}', "did you mean width"),
        ("nowhere.json", "nowhere.json"),
    ],
)
def test_variants_that_are_none(variants, message, images, tmp_path, capsys):
    out = tmp_path / "study"
    command = ["ablate", "roadmap_t_resnet", "--data", str(images), "--out", str(out), *SHORT]
    assert main([*command, "--variants", variants]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()
