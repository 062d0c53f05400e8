"""Killed, stopped or broken at any moment, a run ends as if nothing had happened."""

import json
import random
import signal
import time
from dataclasses import asdict

import pytest
import torch

from convnext.train import checkpoint
from convnext.train.config import OptimConfig, TrainConfig
from convnext.train.recipe_check import plain, refuse_other_recipe

NOISY = {"noise": 0.2, "train": {"micro_batch": 8, "checkpoint_every_steps": 2}}


@pytest.fixture(scope="module")
def uninterrupted(run, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("whole")
    assert run(NOISY | {"run_dir": str(run_dir)}) == 0
    return run_dir


def test_killed_at_random_steps(toy, run, uninterrupted, tmp_path):
    steps = sorted(random.Random(0).sample(range(1, 18), 5))
    for step in steps:
        scenario = NOISY | {"run_dir": str(tmp_path), "kill_at": step}
        assert run(scenario) == -signal.SIGKILL
    assert run(NOISY | {"run_dir": str(tmp_path)}) == 0
    toy.assert_equal_runs(tmp_path, uninterrupted)


def test_killed_by_others_at_random_moments(toy, start, uninterrupted, tmp_path):
    rng = random.Random(1)
    slow = NOISY | {"run_dir": str(tmp_path), "slow": True}
    kills = 0
    for attempt in range(40):  # ever more patient, for machines that start processes slowly
        process = start(slow)
        process.join(rng.uniform(0.1, 0.5) * (1 + attempt / 5))
        if process.exitcode is None:
            process.kill()
            kills += 1
        process.join()
        if process.exitcode == 0:
            break
    assert process.exitcode == 0
    assert kills >= 2
    toy.assert_equal_runs(tmp_path, uninterrupted)
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["term", "int"]
)
def test_stop_signals_save_the_very_step(toy, run, uninterrupted, tmp_path, number, status):
    stopped = NOISY | {"run_dir": str(tmp_path / "run"), "kill_at": 7, "signal": number}
    assert run(stopped | {"log": str(tmp_path / "log"), "progress": True}) == status
    assert "stopped and saved at step 7; the same command resumes" in (tmp_path / "log").read_text()
    assert checkpoint.latest(tmp_path / "run" / "checkpoints").name == "step_00000007.pt"
    assert run(NOISY | {"run_dir": str(tmp_path / "run")}) == 0
    toy.assert_equal_runs(tmp_path / "run", uninterrupted)


def test_a_stop_during_an_evaluation_repeats_it_on_resume(toy, start, run, uninterrupted, tmp_path):
    log = tmp_path / "log"
    scenario = NOISY | {"run_dir": str(tmp_path / "run")}
    process = start(scenario | {"evaluate": "slow", "log": str(log)})
    while not (log.exists() and "evaluating" in log.read_text()):
        time.sleep(0.02)
    process.terminate()
    process.join(10)
    assert process.exitcode == 143
    assert run(scenario) == 0
    toy.assert_equal_runs(tmp_path / "run", uninterrupted)


def test_a_finished_run_returns_at_once(toy, uninterrupted):
    before = (uninterrupted / "metrics.jsonl").read_bytes()
    result = toy.build(NOISY | {"run_dir": str(uninterrupted)}).fit()
    assert result.step == 18
    assert result.best_path.name == "best.pt"
    assert result.best.weights in ("ema", "model")
    assert result.best.score == checkpoint.load(result.best_path)["best"]["score"]
    assert (uninterrupted / "metrics.jsonl").read_bytes() == before


def test_the_best_of_both_weights_wins_and_is_restored(toy, uninterrupted):
    evaluations = [r for r in toy.records(uninterrupted) if r["kind"] == "eval"]
    assert {r["weights"] for r in evaluations} == {"ema", "model"}
    assert len(evaluations) == 2 * 6
    best = max(evaluations, key=lambda r: r["score"])
    saved = toy.last(uninterrupted)["best"]
    assert (saved["step"], saved["weights"]) == (best["step"], best["weights"])
    task = toy.ToyTask()
    task.load_state_dict(checkpoint.load(uninterrupted / "checkpoints" / "best.pt")["task"])
    with torch.no_grad():
        assert toy.accuracy(task.eval())["score"] == pytest.approx(best["score"], abs=1e-6)


def test_the_last_checkpoints_and_the_best_are_kept(uninterrupted):
    names = sorted(path.name for path in (uninterrupted / "checkpoints").iterdir())
    assert names == ["best.pt", "step_00000014.pt", "step_00000016.pt", "step_00000018.pt"]


def test_another_recipe_is_refused_by_name_but_harmless_fields_may_change(toy, run, tmp_path):
    scenario = {
        "run_dir": str(tmp_path),
        "evaluate": "none",
        "recipe": {"data": {"workers": 0, "path": "a"}},
    }
    assert run(scenario | {"kill_at": 4, "signal": signal.SIGTERM}) == 143
    with pytest.raises(ValueError, match=r"optim.lr was 0.01, is 0.02.* another run folder"):
        toy.build(scenario | {"optim": {"lr": 0.02}}).fit()
    with pytest.raises(ValueError, match=r"data_size.batch_size was 16, is 8"):
        toy.build(scenario | {"optim": {"batch_size": 8}}).fit()
    harmless = {"recipe": {"data": {"workers": 2, "path": "b"}}, "train": {"log_every_steps": 2}}
    assert toy.build(scenario | harmless).fit().step == 18


def test_a_run_that_began_before_a_field_was_there_goes_on():
    now = {"optim": asdict(OptimConfig()), "train": asdict(TrainConfig()), "task": {"a": 1}}
    saved = json.loads(json.dumps(now))
    del saved["optim"]["drops"], saved["train"]["sync_batch_norm"]
    assert refuse_other_recipe(saved, plain(now)) == []
    changed = json.loads(json.dumps(now))
    changed["train"]["sync_batch_norm"] = True
    with pytest.raises(ValueError, match="sync_batch_norm was False, is True"):
        refuse_other_recipe(saved, changed)
