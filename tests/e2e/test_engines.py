"""`--engine`: the same answers from all engines, and what is said where one cannot run."""

import csv
import json
import logging
from functools import partial
from itertools import product
from types import SimpleNamespace

import pytest
import torch

from convnext.cli import main
from convnext.deploy.fused import FusedConvNeXt
from convnext.models.registry import build_model
from convnext.ops import dispatch
from convnext.ops.cpu import features
from convnext.ops.cpu.features import choose
from convnext.ops.cpu.kernel_sets import PLAIN, Feature
from convnext.run import engines
from convnext.run.engines import engine_of_this_machine, running

NATIVE = choose("fp32").kernels is not PLAIN
needs_native = pytest.mark.skipif(not NATIVE, reason="no native kernels on this machine")
ENGINES = [
    pytest.param("auto"),
    pytest.param("fused", marks=needs_native),
    pytest.param("compile"),
]


def tiny(**args):
    return build_model("convnext_atto", depths=(1, 1), dims=(8, 16), **args).eval()


def predicted(run, images, table, *more):
    arguments = ["predict", str(run), str(images / "val"), "--csv", str(table), "--workers", "0"]
    assert main([*arguments, "--device", "cpu", *more]) == 0
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("engine", ENGINES)
def test_predictions_are_those_of_the_network(run, images, tmp_path, engine, monkeypatch):
    # the default backend takes a minute
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    eager = predicted(run, images, tmp_path / "eager.csv", "--engine", "eager")
    other = predicted(run, images, tmp_path / "other.csv", "--engine", engine)
    tolerance = 2e-2 if engine == "fused" and choose().kernels.precision == "bf16" else 1e-5
    for one, two in zip(eager, other, strict=True):
        assert one["file"] == two["file"]
        assert float(one["confidence_1"]) == pytest.approx(
            float(two["confidence_1"]), abs=tolerance
        )


def test_scores_are_those_of_the_network(run, images, tmp_path):
    results = []
    for engine in ("eager", "auto"):
        out = tmp_path / engine
        arguments = ["evaluate", str(run), "--data", str(images / "val"), "--out", str(out)]
        assert main([*arguments, "--workers", "0", "--device", "cpu", "--engine", engine]) == 0
        results.append(json.loads((out / "evaluation.json").read_text()))
        named = "fused" if engine == "auto" and NATIVE else "eager"
        assert named in (out / "report.html").read_text()
    assert results[0]["top1"] == results[1]["top1"]
    assert results[0]["loss"] == pytest.approx(results[1]["loss"], abs=1e-5)


def test_auto_takes_fp32_kernels_and_says_why_once(monkeypatch, caplog):
    caplog.set_level(logging.INFO, engines.__name__)
    engines._say_once.cache_clear()
    network, x = tiny(), torch.randn(2, 3, 32, 32)
    for _ in range(2):
        found = running(network)
    assert len(caplog.records) == 1
    assert found.engine == ("fused" if NATIVE else "eager")
    if NATIVE:
        assert isinstance(found.logits, FusedConvNeXt)
        assert found.logits.kernels.precision == "fp32"
    torch.testing.assert_close(found.logits(x), network(x), rtol=1e-4, atol=1e-5)


def test_auto_leaves_alone_what_has_no_fused_form(monkeypatch):
    slak = build_model("slak_tiny", depths=(1,) * 4, width_factor=0.1).eval()
    found = running(slak)
    assert found.engine == "eager"
    assert "kernel_size" in found.reason
    network = tiny()
    with dispatch.use("reference"):
        assert running(network).engine == "eager"
        assert "published operators" in engine_of_this_machine()
    monkeypatch.setenv("CONVNEXT_CPU", "off")
    found = running(network)
    assert (found.engine, found.logits) == ("eager", network)
    assert "CONVNEXT_CPU=off" in found.reason
    assert "CONVNEXT_CPU=off" in engine_of_this_machine()
    with pytest.raises(ValueError, match="no native kernels for engine 'fused': CONVNEXT_CPU=off"):
        running(network, "fused")
    with pytest.raises(ValueError, match="training mode"):
        running(network.train(), "fused")


def test_auto_packs_nothing_for_a_few_images(run, images, tmp_path, caplog):
    few = running(tiny(), images=engines.WORTHWHILE - 1)
    assert few.engine == "eager"
    assert running(tiny(), images=engines.WORTHWHILE).engine == ("fused" if NATIVE else "eager")
    if NATIVE:
        assert "so few images" in few.reason
        assert running(tiny(), "fused", images=1).engine == "fused"
    caplog.set_level(logging.INFO, engines.__name__)
    files = sorted((images / "val").glob("*/*"))
    for number, engine in ((1, "eager"), (engines.WORTHWHILE, "fused" if NATIVE else "eager")):
        engines._say_once.cache_clear()
        caplog.clear()
        table = tmp_path / "few.csv"
        arguments = ["predict", str(run), *map(str, files[:number]), "--csv", str(table)]
        assert main([*arguments, "--workers", "0", "--device", "cpu"]) == 0
        assert f"engine: {engine} (" in caplog.text
        with table.open(encoding="utf-8", newline="") as file:
            assert [row["file"] for row in csv.DictReader(file)] == list(map(str, files[:number]))


@needs_native
def test_a_network_that_is_not_needed_gives_up_its_memory():
    network, x = tiny(), torch.randn(2, 3, 32, 32)
    want = network(x)
    found = running(network)
    torch.testing.assert_close(network(x), want)
    found = running(network, release=True)
    assert all(p.is_meta for stage in network.stages for p in stage.blocks.parameters())
    torch.testing.assert_close(found.logits(x), want, rtol=1e-4, atol=1e-5)


def test_eight_bits_are_calibrated_and_what_they_cost_is_told(run, images, tmp_path, capsys):
    more = ("--engine", "int8", "--calibrate", str(images / "train"))
    eager = predicted(run, images, tmp_path / "eager.csv", "--engine", "eager")
    for one, two in zip(eager, predicted(run, images, tmp_path / "int8.csv", *more), strict=True):
        assert float(one["confidence_1"]) == pytest.approx(float(two["confidence_1"]), abs=0.05)
    capsys.readouterr()
    arguments = ["evaluate", str(run), "--data", str(images / "val"), "--out", str(tmp_path / "e")]
    assert main([*arguments, "--workers", "0", "--device", "cpu", *more]) == 0
    said = capsys.readouterr().out
    assert "stages.0.blocks.0  error" in said
    assert "calibration images" in said
    assert "points lost" in said
    assert "top-1 in fp32" in (tmp_path / "e" / "report.html").read_text()
    assert main([*arguments, "--engine", "int8"]) == 2
    assert "needs --calibrate FOLDER" in capsys.readouterr().err
    assert main([*arguments, "--calibrate", str(images)]) == 2
    assert "--calibrate is for --engine int8, not for auto" in capsys.readouterr().err
    (tmp_path / "none").mkdir()
    assert main([*arguments, *more[:3], str(tmp_path / "none")]) == 2
    assert "no image in" in capsys.readouterr().err


@pytest.mark.parametrize(
    "target", ["mask_rcnn_convnext_tiny.coco", "upernet_convnext_tiny.ade20k_512"]
)
def test_engines_are_for_classifiers(target, capsys):
    for command, more in (("predict", ["x.png"]), ("evaluate", [])):
        assert main([command, target, *more, "--engine", "eager"]) == 2
        assert "--engine is not for" in capsys.readouterr().err


def test_what_is_said_of_maps_in_fp16(monkeypatch):
    everything = SimpleNamespace(features=~Feature(0))
    monkeypatch.setattr(features, "library", lambda: everything)
    monkeypatch.delenv("CONVNEXT_CPU", raising=False)
    fine = running(tiny(), "fused")
    assert fine.reason.startswith("amx_bf16_half: fastest kernels that this CPU runs")
    large = tiny()
    with torch.no_grad():
        large.stem.norm.weight *= 1e6
    found = running(large, "fused")
    too_large = "amx_bf16: values of this network may be too large for amx_bf16_half, the fastest"
    assert found.reason.startswith(too_large)
    assert found.logits.kernels.name == "amx_bf16"
    said = engine_of_this_machine()
    assert "takes amx_bf16_half (or amx_bf16, if values may be too large for fp16), which" in said
    assert "--engine int8 takes amx_int8_half (or amx_int8, if" in said


def test_doctor_names_the_engine(images, monkeypatch, capsys):
    assert main(["doctor"]) == 0
    engine = "fused (avx" if NATIVE else "eager (no native kernels"
    said = capsys.readouterr().out
    assert f"classifiers on this CPU: engine {engine}" in said
    assert ("--engine int8 takes" in said) == NATIVE
    monkeypatch.setenv("CONVNEXT_CPU", "off")
    assert main(["doctor", "--data", str(images), "--workers", "0"]) == 0
    assert "engine eager (no native kernels: CONVNEXT_CPU=off)" in capsys.readouterr().out
    assert main(["doctor", "--json", "x.json"]) == 2


QUICK = ("--rounds", "1", "--seconds", "0.01", "--device", "cpu", "--sizes", "64")


@needs_native
def test_bench_of_native_code_with_its_parts(capsys, tmp_path):
    file = tmp_path / "rows.json"
    names = ["convnext_atto", "convnextv2_atto"]
    arguments = ["bench", *names, *QUICK, "--dtypes", "fp32", "int8", "--json", str(file)]
    assert main([*arguments, "--batch-sizes", "1", "2", "--engine", "fused", "--profile"]) == 0
    rows = json.loads(file.read_text())["rows"]
    assert [(r["network"], r["mode"]) for r in rows] == [(n, "fused") for n in 4 * names]
    assert all(row["images_per_second"] > 0 for row in rows)
    assert all(row.get("training_images_per_second") is None for row in rows)
    said = capsys.readouterr().out
    for name, batch, dtype in product(names, (1, 2), ("fp32", "int8")):
        assert f"{name}, 64 px, batch {batch}, {dtype}" in said
    for part in ("depthwise", "GEMM 1, GELU", "GRN", "GFLOP/s a thread"):
        assert part in said


def test_bench_refuses_what_native_code_cannot_do(capsys, monkeypatch):
    monkeypatch.setenv("CONVNEXT_CPU", "off")
    cases = {
        ("--engine", "fused"): "no native kernels to measure",
        ("--engine", "fused", "--phases", "training"): "for inference on CPUs",
        ("--engine", "fused", "--dtypes", "fp16"): "not in fp16",
        ("--dtypes", "int8"): "--engine fused",
        ("--engine", "fused", "--modes", "eager"): "give one of the two",
        ("--profile",): "add --engine fused",
    }
    for options, message in cases.items():
        assert main(["bench", "convnext_atto", *QUICK, *options]) == 2
        assert message in capsys.readouterr().err
    auto = ["--engine", "auto", "--phases", "inference"]
    assert main(["bench", "convnext_atto", *QUICK, *auto]) == 0
    assert "eager" in capsys.readouterr().out
    monkeypatch.delenv("CONVNEXT_CPU")
    assert main(["bench", "convnext_atto", "timm:resnet10t", *QUICK, *auto]) == 0
    assert "eager" in capsys.readouterr().out
