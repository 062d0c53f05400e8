"""Sparse training: how dense every tensor is, what stays zero, what moves, what resumes."""

import copy
import io
import math
import random
import shutil
import signal

import numpy as np
import pytest
import torch
from torch import nn

from convnext.train import checkpoint
from convnext.train.config import OptimConfig, SparsityConfig, TrainConfig
from convnext.train.hooks import Hook, ProgressBar
from convnext.train.losses import NonFiniteError
from convnext.train.param_groups import build_param_groups
from convnext.train.sparse_init import draw_mask, generator
from convnext.train.sparse_update import grow_at_random, prune_rate
from convnext.train.step import TrainStep

SPARSE = {"sparsity": 0.4, "update_every": 3}
NOISY = {
    "noise": 0.2,
    "train": {"micro_batch": 8, "checkpoint_every_steps": 2},
    "sparsity": SPARSE | {"update_every": 4},
}


@pytest.mark.parametrize(("micro_batch", "noise"), [(None, 0.0), (4, 0.0), (8, 0.2)])
def test_snip_ranks_by_the_gradient_of_the_first_step(toy, tmp_path, micro_batch, noise):
    """The one that the first step would see, its random numbers included, for any accumulation."""
    scenario = {"run_dir": str(tmp_path), "noise": noise, "train": {"micro_batch": micro_batch}}
    dense = toy.build(scenario)
    gradients = {}
    for name, parameter in dense.state.task.named_parameters():
        parameter.register_post_accumulate_grad_hook(
            lambda p, name=name: gradients.update({name: p.grad.clone()})
        )
    start = {n: p.detach().clone() for n, p in dense.state.task.named_parameters() if p.dim() > 1}
    step_once(dense)
    scores = {name: (value * gradients[name]).abs() for name, value in start.items()}
    sparse = started(toy, scenario | {"sparsity": SPARSE})
    masks = sparse.state.sparsity.state_dict()
    assert {n: int(m.sum()) for n, m in masks.items()} == toy.snip_naive(scores, 225)
    assert sparse.state.sparsity.share == 0.4


def started(toy, scenario):
    engine = toy.build(scenario)
    engine.state.task.train()
    engine._train_step.start()
    return engine


def step_once(engine):
    engine.state.task.train()
    step = engine._train_step
    step(engine._batches.iterate(engine.state.step), want_norm=False)


class Restless(nn.Module):
    """Changes everything that a forward pass can change; its gradients overflow in fp16."""

    def __init__(self):
        super().__init__()
        self.passes = 0
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 3, 3))
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, batch):
        self.passes += 1
        self.seen = self.seen + random.random() + np.random.rand()
        x = nn.functional.dropout(self.net(batch["image"]), 0.5)
        return {"loss": 1e4 * nn.functional.cross_entropy(x.mean((2, 3)), batch["label"])}

    def param_groups(self, optim):
        return build_param_groups(self.named_parameters(), weight_decay=0.05)

    def shard_modules(self):
        return [self.net]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_snip_leaves_no_trace(toy, precision):
    optim = OptimConfig(batch_size=16, epochs=2, warmup_epochs=0, sparsity=SparsityConfig(**SPARSE))
    config = TrainConfig(device="cpu", precision=precision)
    step = TrainStep(Restless(), toy.ToyBatches(micro_batch=4), optim, config, toy.setup("cpu"))
    task = step.state.task.train()

    def trace():
        buffers = {name: buffer.clone() for name, buffer in task.named_buffers()}
        states = [
            torch.get_rng_state().tolist(),
            random.getstate(),
            np.random.get_state()[1].tolist(),
        ]
        scale = step.state.scaler.state_dict() if step.state.scaler else None
        return buffers, [
            states,
            scale,
            [p.grad for p in task.parameters()],
            step.state.losses._rows,
        ]

    before, others = trace()
    step.start()
    after, others_after = trace()
    assert others == others_after
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert task.training
    assert (task.passes == 4) == (precision == "fp32")
    for name, mask in step.state.sparsity.masks.items():
        weight = task.get_parameter(name)
        assert (weight[~mask] == 0).all()
        assert (weight[mask] != 0).all()


def test_snip_refuses_a_gradient_that_is_not_finite(toy, tmp_path):
    engine = toy.build({"run_dir": str(tmp_path), "nan_at": 1, "sparsity": SPARSE})
    with pytest.raises(NonFiniteError, match=r"gradient of step 1, by which .*init='snip'.* good"):
        engine.fit()


def test_snip_out_of_memory_names_the_micro_batch_that_fits(toy, tmp_path):
    scenario = {"run_dir": str(tmp_path), "out_of_memory_above": 5, "sparsity": SPARSE}
    with pytest.raises(ValueError, match=r"at step 1 .*4 fit: set micro_batch=4"):
        toy.build(scenario).fit()


class Watch(Hook):
    """After every step: what is inactive is zero everywhere, and counts never change."""

    def __init__(self):
        self.engine, self.history = None, []

    def on_step(self, step):
        state = self.engine.state
        averages = dict(state.ema.module.named_parameters())
        for name, mask in state.sparsity.masks.items():
            weight = state.task.get_parameter(name)
            moments = [v for v in state.optimizer.state[weight].values() if v.shape == mask.shape]
            assert moments
            for tensor in (weight, averages[name], *moments):
                assert (tensor[~mask] == 0).all(), (step, name)
        self.history.append({n: m.clone() for n, m in state.sparsity.masks.items()})


@pytest.mark.parametrize("growth", ["random", "gradient"])
@pytest.mark.parametrize(
    ("optimizer", "precision", "micro_batch"),
    [("adamw", "fp32", 4), ("sgd", "fp32", None), ("adamw", "bf16", None), ("adamw", "fp16", 8)],
)
def test_inactive_weights_stay_zero_and_counts_exact(
    toy, tmp_path, growth, optimizer, precision, micro_batch
):
    watch = Watch()
    scenario = {
        "run_dir": str(tmp_path),
        "sparsity": SPARSE | {"update_every": 2, "growth": growth},
        "optim": {"optimizer": optimizer, "clip_grad": 0.5},
        "train": {"precision": precision, "micro_batch": micro_batch},
    }
    watch.engine = toy.build(scenario, hooks=[watch])
    watch.engine.fit()
    assert len(watch.history) == 18
    for step in range(2, 19):
        before, after = watch.history[step - 2 : step]
        for name, mask in before.items():
            assert mask.sum() == after[name].sum()
        moved = any((before[name] != after[name]).any() for name in before)
        assert moved == (step % 2 == 0 and step < 18), step
    assert sum(int(mask.sum()) for mask in watch.history[-1].values()) == 225
    best = checkpoint.load(tmp_path / "checkpoints" / "best.pt")
    for name, mask in best["masks"].items():
        assert mask.dtype == torch.bool
        assert (best["task"][name][~mask] == 0).all()
        assert (best["task"][name][mask] != 0).float().mean() > 0.9


@pytest.mark.parametrize(
    ("growth", "micro_batch"), [("gradient", None), ("gradient", 4), ("random", 4)]
)
def test_an_update_is_pruning_and_growth_of_the_weights_after_the_step(
    toy, tmp_path, growth, micro_batch
):
    """Plain SGD without decay, so that the weights after the step are known without the mask."""
    optim = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "warmup_epochs": 0}
    train = {"micro_batch": micro_batch, "seed": 5}
    scenario = {"run_dir": str(tmp_path), "train": train, "optim": optim}
    engine = started(toy, scenario | {"sparsity": SPARSE | {"growth": growth}})
    masks = engine.state.sparsity.state_dict()
    for index, mask in enumerate(masks.values()):
        drawn = draw_mask(mask.shape, int(mask.sum()), generator(5, 0, index))
        assert torch.equal(mask, drawn)
    step_once(engine)
    step_once(engine)
    task = copy.deepcopy(engine.state.task)
    task(next(toy.ToyBatches().iterate(2)))["loss"].backward()
    step_once(engine)
    lr, rate = engine._train_step.lr, prune_rate(0.5, 3, 18)
    for index, (name, mask) in enumerate(masks.items()):
        gradient = task.get_parameter(name).grad
        weight = (task.get_parameter(name).detach() - lr * gradient) * mask
        count = math.ceil(rate * mask.sum().item())
        kept = mask.flatten().clone()
        kept[weight.abs().masked_fill(~mask, torch.inf).flatten().argsort()[:count]] = False
        if growth == "gradient":
            size = gradient.abs().flatten().masked_fill(kept, -1)
            kept[size.argsort(descending=True)[:count]] = True
        else:
            kept = grow_at_random(kept, count, generator(5, 3, index))
        assert torch.equal(engine.state.sparsity.state_dict()[name].flatten(), kept)
        where = kept.view(mask.shape)
        found = engine.state.task.get_parameter(name).detach()
        torch.testing.assert_close(found, weight * where, rtol=0, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_clipping_looks_at_active_weights_only(toy, tmp_path, precision):
    """With SGD without momentum and a norm above the limit, a step is exactly lr * limit long."""
    optim = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "clip_grad": 1e-3}
    optim |= {"lr": 0.5, "min_lr": 0.5, "warmup_epochs": 0}
    scenario = {"run_dir": str(tmp_path), "optim": optim, "train": {"precision": precision}}
    engine = started(toy, scenario | {"sparsity": SPARSE | {"sparsity": 0.8}})
    before = {n: p.detach().clone() for n, p in engine.state.task.named_parameters()}
    step_once(engine)
    moved = [(p - before[n]).flatten() for n, p in engine.state.task.named_parameters()]
    assert torch.cat(moved).norm().item() == pytest.approx(0.5e-3, rel=1e-3)


def test_masks_are_a_function_of_the_seed_alone(toy, tmp_path):
    ends = []
    for index, seed in enumerate((0, 0, 1)):
        torch.manual_seed(index)
        scenario = {"run_dir": str(tmp_path / str(index)), "train": {"seed": seed}}
        engine = toy.build(scenario | {"sparsity": SPARSE, "evaluate": "none"})
        engine.fit()
        ends.append(engine.state.sparsity.state_dict())
    one, same, other = ends
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    assert [m.sum() for m in one.values()] == [m.sum() for m in other.values()]


def test_the_average_of_a_grown_weight_begins_at_the_weight(toy, tmp_path):
    engine = started(toy, {"run_dir": str(tmp_path), "sparsity": SPARSE})
    for _ in range(2):
        step_once(engine)
    before = engine.state.sparsity.state_dict()
    step_once(engine)
    assert engine._train_step.mask_update["moved"] > 0
    grown = {n: m & ~before[n] for n, m in engine.state.sparsity.state_dict().items()}
    averages = dict(engine.state.ema.module.named_parameters())
    kept = {name: averages[name].clone() for name in grown}
    step_once(engine)
    assert engine._train_step.mask_update is None
    for name, places in grown.items():
        weight, mask = engine.state.task.get_parameter(name), engine.state.sparsity.masks[name]
        assert torch.equal(averages[name][places], weight[places])
        assert (weight[places] != 0).all()
        old = mask & ~places
        expected = 0.9 * kept[name] + 0.1 * weight
        torch.testing.assert_close(averages[name][old], expected[old])
    for name in grown:  # not after an update an average of 0 is an average
        averages[name].data.zero_()
    step_once(engine)
    for name, places in grown.items():
        weight = engine.state.task.get_parameter(name)
        torch.testing.assert_close(averages[name][places], 0.1 * weight[places])


def test_only_some_weights_static_masks_and_dense_tensors(toy, tmp_path):
    sparse = {"sparsity": 0.5, "init": "uniform", "update_every": 0, "only": ("body.*",)}
    stream = io.StringIO()
    scenario = {"run_dir": str(tmp_path), "sparsity": sparse}
    engine = toy.build(scenario, hooks=[ProgressBar(stream)])
    engine.fit()
    masks = toy.last(tmp_path)["masks"]
    assert {n: int(m.sum()) for n, m in masks.items()} == {"body.0.weight": 94, "body.2.weight": 84}
    assert (engine.state.task.head.weight != 0).all()
    assert not [r for r in toy.records(tmp_path) if r["kind"] == "masks"]
    assert (
        "sparse training: 50.1 % of 357 weights in 2 tensors are zero (uniform, 0 stay dense); "
        "212 non-zero parameters of 391; the masks never change"
    ) in stream.getvalue()


def test_a_dense_tensor_keeps_a_full_mask_in_the_checkpoint(toy, tmp_path):
    scenario = {"run_dir": str(tmp_path), "sparsity": {"sparsity": 0.3, "init": "erk"}}
    engine = toy.build(scenario)
    engine.fit()
    masks = toy.last(tmp_path)["masks"]
    assert masks["head.weight"].all()
    assert list(engine.state.sparsity.masks) == ["body.0.weight", "body.2.weight"]
    assert list(masks) == ["body.0.weight", "body.2.weight", "head.weight"]
    zeros = sum(int((~mask).sum()) for mask in masks.values())
    assert zeros == pytest.approx(0.3 * 375, abs=3)
    assert toy.build(scenario).fit().step == 18


def test_records_and_messages(toy, tmp_path):
    stream = io.StringIO()
    toy.build({"run_dir": str(tmp_path), "sparsity": SPARSE}, hooks=[ProgressBar(stream)]).fit()
    records = toy.records(tmp_path)
    moves = [record for record in records if record["kind"] == "masks"]
    assert [record["step"] for record in moves] == [3, 6, 9, 12, 15]
    for record in moves:
        assert record["prune_rate"] == prune_rate(0.5, record["step"], 18)
        assert 0 < record["moved"] <= 225 * record["prune_rate"] + 3
    train = [record for record in records if record["kind"] == "train"]
    assert {record["sparsity"] for record in train} == {0.4}
    assert all(0 < record["nonzero_weights"] <= 225 for record in train)
    assert (
        "sparse training: 40.0 % of 375 weights in 3 tensors are zero (snip, 0 stay dense); "
        "241 non-zero parameters of 391; every 3 steps up to 50 % of them move"
    ) in stream.getvalue()
    assert stream.getvalue().count("sparse") == 1


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # dynamo asks for it
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_trains_sparsely_too(toy, tmp_path):
    ends = []
    for compiled in (False, True):
        scenario = {"run_dir": str(tmp_path / str(compiled)), "train": {"compile": compiled}}
        scenario |= {"sparsity": SPARSE, "optim": {"epochs": 2}, "evaluate": "none"}
        engine = toy.build(scenario)
        engine.fit()
        ends.append((engine.state.task.state_dict(), engine.state.sparsity.state_dict()))
    (plain, masks), (other, other_masks) = ends
    for name, mask in masks.items():
        assert torch.equal(mask, other_masks[name])
    for key, value in plain.items():
        torch.testing.assert_close(other[key], value, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def uninterrupted(run, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("whole")
    assert run(NOISY | {"run_dir": str(run_dir)}) == 0
    return run_dir


@pytest.mark.parametrize("steps", [(1, 5, 9), (4, 8, 16), (13,)], ids=str)
def test_killed_before_after_and_between_updates(toy, run, uninterrupted, tmp_path, steps):
    for step in steps:
        assert run(NOISY | {"run_dir": str(tmp_path), "kill_at": step}) == -signal.SIGKILL
    assert run(NOISY | {"run_dir": str(tmp_path)}) == 0
    toy.assert_equal_runs(tmp_path, uninterrupted)


def test_stopped_at_the_very_step_of_an_update(toy, uninterrupted, tmp_path):
    for step in (4, 7, 8):
        stopping = NOISY | {"run_dir": str(tmp_path), "kill_at": step, "signal": signal.SIGTERM}
        with pytest.raises(SystemExit):
            toy.build(stopping).fit()
    toy.build(NOISY | {"run_dir": str(tmp_path)}).fit()
    toy.assert_equal_runs(tmp_path, uninterrupted)


def rewritten(toy, run_dir, change):
    path = checkpoint.latest(run_dir / "checkpoints")
    state = checkpoint.load(path)
    change(state)
    del state["format"]
    checkpoint.save(path.parent, state["step"], state, keep=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("masks"), "it has no mask for body.0.weight, which this run"),
        (lambda s: s["masks"].pop("head.weight"), "it has no mask for head.weight, which this run"),
        (
            lambda s: s["masks"].update(ghost=s["masks"]["head.weight"]),
            "this run has no mask for ghost, which it masks",
        ),
        (
            lambda s: s["masks"].update({"head.weight": torch.ones(2, 6, dtype=torch.bool)}),
            r"head.weight is torch.bool of shape \(2, 6\), the weight needs bool of \(3, 6\)",
        ),
        (
            lambda s: s["masks"].update({"head.weight": torch.ones(3, 6)}),
            r"mask of head.weight is torch.float32 of shape \(3, 6\)",
        ),
    ],
    ids=["none", "missing", "foreign", "shape", "type"],
)
def test_masks_that_do_not_fit_are_refused(toy, tmp_path, change, message):
    scenario = {"run_dir": str(tmp_path), "sparsity": SPARSE, "evaluate": "none"}
    with pytest.raises(SystemExit):
        toy.build(scenario | {"kill_at": 5, "signal": signal.SIGTERM}).fit()
    rewritten(toy, tmp_path, change)
    with pytest.raises(ValueError, match=message):
        toy.build(scenario).fit()


def test_another_sparsity_is_another_recipe(toy, tmp_path):
    scenario = {"run_dir": str(tmp_path), "evaluate": "none"}
    with pytest.raises(SystemExit):
        toy.build(scenario | {"sparsity": SPARSE, "kill_at": 5, "signal": signal.SIGTERM}).fit()
    with pytest.raises(ValueError, match=r"sparsity.growth was random, is gradient"):
        toy.build(scenario | {"sparsity": SPARSE | {"growth": "gradient"}}).fit()
    with pytest.raises(ValueError, match=r"sparsity.sparsity was 0.4, is absent"):
        toy.build(scenario).fit()


def test_a_dense_run_knows_nothing_of_masks_and_resumes_from_before_there_were_any(toy, tmp_path):
    scenario = {"noise": 0.1, "evaluate": "none"}
    toy.build(scenario | {"run_dir": str(tmp_path / "whole")}).fit()
    whole = toy.last(tmp_path / "whole")
    assert "masks" not in whole
    assert not any(
        {"sparsity", "nonzero_weights"} & r.keys() for r in toy.records(tmp_path / "whole")
    )
    scenario["run_dir"] = str(tmp_path / "old")
    with pytest.raises(SystemExit):
        toy.build(scenario | {"kill_at": 5, "signal": signal.SIGTERM}).fit()
    rewritten(toy, tmp_path / "old", lambda s: s["recipe"]["optim"].pop("sparsity"))
    toy.build(scenario).fit()
    toy.assert_same(toy.last(tmp_path / "old"), whole)
    ignored = {"sparsity": {"sparsity": 0.0, "growth": "gradient", "update_every": 1}}
    toy.build(scenario | ignored | {"run_dir": str(tmp_path / "zero")}).fit()
    for part in ("task", "ema", "optimizer"):
        toy.assert_same(toy.last(tmp_path / "zero")[part], whole[part])


def test_one_pattern_is_not_a_tuple():
    with pytest.raises(ValueError, match=r"only='body.\*': must be a tuple of patterns"):
        SparsityConfig(only="body.*")
    with pytest.raises(ValueError, match=r"sparsity=1.0: must be from 0"):
        SparsityConfig(sparsity=1.0)


PARALLEL = {
    "ddp": {"parallel": "ddp"},
    "ddp_accumulated": {"parallel": "ddp", "micro_batch": 2},
    "fsdp": {"parallel": "fsdp"},
    "fsdp_accumulated": {"parallel": "fsdp", "micro_batch": 2},
}
CASES = [("random", "ddp"), ("random", "fsdp"), ("random", "fsdp_accumulated")]
CASES += [("gradient", "ddp_accumulated"), ("gradient", "fsdp")]
MIXED = [("random", "single_then_fsdp"), ("gradient", "fsdp_then_single")]


@pytest.fixture(scope="module")
def runs(toy, tmp_path_factory):
    """Runs alone, with two processes, and begun by one kind and ended by another."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("runs")
    stop = {"kill_at": 10, "signal": 15}

    def scenario(growth, name, train=None, **more):
        run_dir = str(root / growth / name)
        sparse = {"sparsity": SPARSE | {"growth": growth}, "optim": {"clip_grad": 0.5}}
        return sparse | {"run_dir": run_dir, "train": train or {}} | more

    for growth in ("random", "gradient"):
        toy.build(scenario(growth, "single")).fit()
    with pytest.raises(SystemExit):
        toy.build(scenario(*MIXED[0], **stop)).fit()
    together = [scenario(growth, name, PARALLEL[name]) for growth, name in CASES]
    together.append(scenario(*MIXED[0], PARALLEL["fsdp"]))
    together.append(scenario(*MIXED[1], PARALLEL["fsdp"], **stop))
    toy.torchrun(together, root)
    toy.build(scenario(*MIXED[1])).fit()
    return root


@pytest.mark.parametrize(("growth", "name"), [*CASES, *MIXED])
def test_processes_agree_on_the_masks_of_one(toy, runs, growth, name):
    one, other = toy.last(runs / growth / "single"), toy.last(runs / growth / name)
    toy.assert_same(other["masks"], one["masks"])
    if name in PARALLEL:
        folder = runs / growth / name
        first, second = (torch.load(folder / f"masks_{rank}.pt") for rank in range(2))
        toy.assert_same(first, second)
        assert first.keys() <= one["masks"].keys()
    for part in ("task", "ema"):
        for key, value in one[part].items():
            torch.testing.assert_close(other[part][key], value, rtol=0, atol=1e-6)
    for key, mask in other["masks"].items():
        tensors = [other["task"][key], other["ema"][key]]
        tensors += [other["optimizer"][key][moment] for moment in ("exp_avg", "exp_avg_sq")]
        assert all((tensor[~mask] == 0).all() for tensor in tensors)
    logs = [toy.records(runs / growth / run) for run in ("single", name)]
    for mine, theirs in zip(*logs, strict=True):
        for field in ("kind", "step", "sparsity", "nonzero_weights", "moved", "prune_rate"):
            assert mine.get(field) == theirs.get(field)
