"""Parameter groups, average, clipping, precision, hooks: each alone."""

import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from convnext.train.ema import Ema
from convnext.train.hooks import Profiler, ProgressBar, TensorBoard
from convnext.train.param_groups import build_param_groups, check_complete
from convnext.train.precision import resolve
from convnext.train.randomness import mix, seed_all


def base_names():
    """(name, shape, layer id) as in ConvNeXt-B with 12 groups, in the order of its parameters."""
    depths = (3, 3, 27, 3)
    yield from (("stem.conv.weight", 4, 0), ("stem.conv.bias", 1, 0))
    yield from (("stem.norm.weight", 1, 0), ("stem.norm.bias", 1, 0))
    for i in range(1, 4):
        layer = (0, 2, 3, 12)[i]
        for part, ndim in (
            ("norm.weight", 1),
            ("norm.bias", 1),
            ("conv.weight", 4),
            ("conv.bias", 1),
        ):
            yield f"stages.{i}.downsample.{part}", ndim, layer
    for i, depth in enumerate(depths):
        for j in range(depth):
            layer = (1, 2, 3 + j // 3, 12)[i]
            for part, ndim in (
                ("gamma", 1),
                ("dwconv.weight", 4),
                ("dwconv.bias", 1),
                ("norm.weight", 1),
                ("norm.bias", 1),
                ("pwconv1.weight", 2),
                ("pwconv1.bias", 1),
                ("pwconv2.weight", 2),
                ("pwconv2.bias", 1),
            ):
                yield f"stages.{i}.blocks.{j}.{part}", ndim, layer
    yield from (("norm.weight", 1, 13), ("norm.bias", 1, 13))
    yield from (("head.weight", 2, 13), ("head.bias", 1, 13))


def test_groups_of_a_base_network_are_the_28_of_the_paper():
    rows = list(base_names())
    parameters = [(name, nn.Parameter(torch.zeros((1,) * ndim))) for name, ndim, _ in rows]
    groups = build_param_groups(
        parameters,
        weight_decay=0.05,
        layer_ids={name: layer for name, _, layer in rows},
        num_layers=12,
        layer_decay=0.8,
    )
    assert len(rows) == 344
    assert len(groups) == 28
    assert [g["name"] for g in groups[:3]] == [
        "layer_0_decay",
        "layer_0_no_decay",
        "layer_2_no_decay",
    ]
    assert {g["name"] for g in groups} == {
        f"layer_{i}_{kind}" for i in range(14) for kind in ("decay", "no_decay")
    }
    by_name = {g["name"]: g for g in groups}
    assert by_name["layer_0_decay"]["lr_scale"] == pytest.approx(0.05498, abs=1e-5)
    assert by_name["layer_13_decay"]["lr_scale"] == 1.0
    assert all(g["weight_decay"] == (0.0 if "no_decay" in g["name"] else 0.05) for g in groups)
    owner = {id(p): g["name"] for g in groups for p in g["params"]}
    assert sum(len(g["params"]) for g in groups) == len(owner) == 344
    for (name, parameter), (_, ndim, layer) in zip(parameters, rows, strict=True):
        assert owner[id(parameter)] == f"layer_{layer}_{'decay' if ndim > 1 else 'no_decay'}", name


def test_every_parameter_exactly_once_or_it_raises():
    net = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    weight_decay = {"weight_decay": 0.1}
    groups = build_param_groups(net.named_parameters(), **weight_decay)
    assert [(g["name"], len(g["params"])) for g in groups] == [("decay", 1), ("no_decay", 3)]
    check_complete(groups, net)
    pairs = list(net.named_parameters())
    with pytest.raises(ValueError, match=r"twin is also 0.weight"):
        build_param_groups([*pairs, ("twin", pairs[0][1])], **weight_decay)
    layers = {"num_layers": 1, "layer_decay": 0.5} | weight_decay
    with pytest.raises(ValueError, match=r"0.bias has no layer id"):
        build_param_groups(pairs, layer_ids={"0.weight": 0}, **layers)
    with pytest.raises(ValueError, match=r"layer id 9, not in 0..2"):
        build_param_groups(pairs, layer_ids=dict.fromkeys(dict(pairs), 9), **layers)
    with pytest.raises(ValueError, match="without a parameter: ghost"):
        build_param_groups(pairs, **weight_decay, layer_ids={"ghost": 0})
    groups[0]["params"] = []
    with pytest.raises(ValueError, match=r"0.weight \(0 times\)"):
        check_complete(groups, net)
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        build_param_groups(net.named_parameters(), **weight_decay)


@pytest.mark.parametrize("warmup", [False, True])
def test_the_average_is_the_formula_over_the_whole_state(warmup):
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    ema = Ema(net, 0.99, warmup)
    expected = {k: v.double().clone() for k, v in net.state_dict().items()}
    for t in range(60):
        for parameter in net.parameters():
            parameter.data += torch.randn_like(parameter)
        net(torch.randn(8, 3))
        ema.update(net, t)
        d = min(0.99, (1 + t) / (10 + t)) if warmup else 0.99
        for key, value in net.state_dict().items():
            expected[key] = d * expected[key] + (1 - d) * value.double()
    for key, value in ema.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[key].float(), rtol=1e-5, atol=1e-5)
    assert ema.module[1].num_batches_tracked == net[1].num_batches_tracked == 60
    assert not ema.module.training
    assert not any(p.requires_grad for p in ema.module.parameters())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_clipping_acts_in_every_precision(toy, tmp_path, precision):
    """With SGD without momentum and a norm above the limit, a step is exactly lr * limit long."""
    optim = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "clip_grad": 1e-3}
    optim |= {"lr": 0.5, "min_lr": 0.5, "warmup_epochs": 0, "epochs": 1, "batch_size": 56}
    scenario = {"run_dir": str(tmp_path), "optim": optim, "evaluate": "none"}
    engine = toy.build(scenario | {"train": {"precision": precision}})
    before = {n: p.detach().clone() for n, p in engine.state.task.named_parameters()}
    engine.fit()
    moved = [(p - before[n]).flatten() for n, p in engine.state.task.named_parameters()]
    assert torch.cat(moved).norm().item() == pytest.approx(0.5e-3, rel=1e-3)
    record = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert record["grad_norm"] > 1e-2


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_learns_like_fp32(toy, tmp_path, precision):
    seen = []
    forward = toy.ToyTask.logits

    def spy(self, image):
        result = forward(self, image)
        if self.training:
            seen.append(result.dtype)
        return result

    losses = {}
    toy.ToyTask.logits = spy
    try:
        for name in ("fp32", precision):
            scenario = {"run_dir": str(tmp_path / name), "train": {"precision": name}}
            losses[name] = toy.build(scenario).fit().best.score
    finally:
        toy.ToyTask.logits = forward
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert seen == [torch.float32] * 18 + [dtype] * 18
    assert losses[precision] == pytest.approx(losses["fp32"], abs=0.02)


def test_sixteen_bit_training_resumes_bit_identically(toy, tmp_path):
    """The loss scale is part of the state: fp16 overflows in the first steps and halves it."""
    results = []
    for name, stops in (("whole", ()), ("stopped", (3, 9))):
        scenario = {"run_dir": str(tmp_path / name), "evaluate": "none", "noise": 0.1}
        scenario["train"] = {"precision": "fp16"}
        for step in stops:
            with pytest.raises(SystemExit):
                toy.build(scenario | {"kill_at": step, "signal": 15}).fit()
        engine = toy.build(scenario)
        engine.fit()
        results.append((engine.state.task.state_dict(), engine.state.scaler.state_dict()))
    (one, scale), (other, other_scale) = results
    assert scale == other_scale
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_precision_is_chosen_by_the_device(monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    for amx, chosen in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda n=amx: n)
        assert resolve("auto", cpu) == chosen
    assert resolve("bf16", cpu) == "bf16"
    for native, chosen in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda n=native, **_: n)
        assert resolve("auto", cuda) == chosen


def test_random_streams_depend_on_every_number_and_on_nothing_else():
    seeds = {
        mix(seed, step, 0, rank) for seed in range(4) for step in range(50) for rank in range(4)
    }
    assert len(seeds) == 800
    draws = []
    for _ in range(2):
        seed_all(1, 2, 3)
        draws.append((torch.rand(2).tolist(), np.random.rand(), __import__("random").random()))
    assert draws[0] == draws[1]


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # dynamo asks for it
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_layout_and_compilation_do_not_change_the_result(toy, tmp_path, compiled):
    if compiled and not shutil.which("g++"):
        pytest.skip("torch.compile needs a C++ compiler")
    ends = []
    for name, train in (("plain", {"channels_last": False}), ("other", {"compile": compiled})):
        scenario = {"run_dir": str(tmp_path / name), "train": train, "optim": {"epochs": 2}}
        engine = toy.build(scenario | {"evaluate": "none"})
        engine.fit()
        ends.append(engine.state.task.state_dict())
    for key, value in ends[0].items():
        torch.testing.assert_close(ends[1][key], value, rtol=0, atol=1e-5)


def test_progress_is_plain_lines_when_not_on_a_terminal(toy, tmp_path):
    stream = io.StringIO()
    scenario = {"run_dir": str(tmp_path), "train": {"micro_batch": 4}}
    toy.build(scenario, hooks=[ProgressBar(stream)]).fit()
    lines = stream.getvalue().splitlines()
    assert "steps 1 to 18, 3 per epoch; effective batch 16 = 1 x 4 x 4" in lines[0]
    assert lines[1].startswith("step 1/18  epoch 0.33  loss 1.")
    assert any(line.startswith("evaluation at step 3 (ema weights): score") for line in lines)
    assert lines[-3].startswith("step 18/18")
    assert "\r" not in stream.getvalue()


def test_progress_is_a_bar_on_a_terminal(toy, tmp_path):
    stream = io.StringIO()
    stream.isatty = lambda: True
    toy.build({"run_dir": str(tmp_path)}, hooks=[ProgressBar(stream)]).fit()
    assert "\r" in stream.getvalue()
    assert "18/18" in stream.getvalue()


def test_tensorboard_and_profiler_files(toy, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    profiler = Profiler(tmp_path / "profile" / "trace.json", warmup=1, steps=2)
    hooks = [TensorBoard(tmp_path / "tensorboard"), profiler]
    toy.build({"run_dir": str(tmp_path)}, hooks=hooks).fit()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {"train/loss", "train/lr", "eval/ema/score", "eval/model/loss"} <= set(
        events.Tags()["scalars"]
    )
    assert [event.step for event in events.Scalars("train/loss")] == [1, 4, 8, 12, 16, 18]
    assert "traceEvents" in (tmp_path / "profile" / "trace.json").read_text()


def test_configs_load_without_torch():
    code = "import sys, convnext.train.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
