"""Several real processes give the result of one."""

import json

import pytest
import torch

from convnext.train import checkpoint, parallel

SINGLE = {"optim": {"clip_grad": 0.5}}
CASES = {
    "ddp": {"parallel": "ddp"},
    "ddp_accumulated": {"parallel": "ddp", "micro_batch": 2},
    "fsdp": {"parallel": "fsdp"},
    "fsdp_accumulated": {"parallel": "fsdp", "micro_batch": 2},
}


@pytest.fixture(scope="module")
def runs(toy, tmp_path_factory):
    """Folders of runs: alone, with two processes, and begun by one kind and ended by another."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("runs")
    stop = {"kill_at": 10, "signal": 15}

    def scenario(name, train=None, **more):
        return SINGLE | {"run_dir": str(root / name), "train": train or {}} | more

    toy.build(scenario("single")).fit()
    toy.build(scenario("single_accumulated", {"micro_batch": 4})).fit()
    with pytest.raises(SystemExit):
        toy.build(scenario("single_then_fsdp", **stop)).fit()
    halves = [scenario("fsdp_then_single", CASES["fsdp"], **stop)]
    whole = [scenario(name, train) for name, train in CASES.items()]
    toy.torchrun([*whole, scenario("single_then_fsdp", CASES["fsdp"]), *halves], root)
    assert checkpoint.latest(root / "fsdp_then_single" / "checkpoints").name == "step_00000011.pt"
    toy.build(scenario("fsdp_then_single")).fit()
    return root


@pytest.mark.parametrize(
    "name", [*CASES, "single_accumulated", "single_then_fsdp", "fsdp_then_single"]
)
def test_processes_and_accumulation_do_not_change_the_result(toy, runs, name):
    one, other = toy.last(runs / "single"), toy.last(runs / name)
    assert one["step"] == other["step"] == 18
    for part in ("task", "ema"):
        assert one[part].keys() == other[part].keys()
        for key, value in one[part].items():
            if value.is_floating_point():
                torch.testing.assert_close(other[part][key], value, rtol=0, atol=1e-6)
    for key, tensors in one["optimizer"].items():
        for kind, value in tensors.items():
            torch.testing.assert_close(other["optimizer"][key][kind], value, rtol=1e-5, atol=1e-6)


def test_training_moved_the_weights(runs, toy):
    start, end = toy.ToyTask().state_dict(), toy.last(runs / "single")["task"]
    assert (start["head.weight"] - end["head.weight"]).abs().max() > 1e-2


@pytest.mark.parametrize("name", CASES)
def test_logs_are_those_of_the_whole_batch(runs, name):
    one, other = (
        [json.loads(line) for line in (runs / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("single", name)
    )
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert (a["kind"], a["step"]) == (b["kind"], b["step"])
        assert b["loss"] == pytest.approx(a["loss"], abs=1e-5)
        if a["kind"] == "train":
            assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-4)


def test_slurm_processes_find_each_other_and_stop_together(toy, start, run, tmp_path):
    """A signal that reaches only one process stops both at the same step."""
    job = toy.free_port() - 20000
    env = {
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_JOB_ID": str(job % 20000),
    }
    scenario = {"run_dir": str(tmp_path / "run"), "slow": True}
    processes = []
    for rank in range(2):
        mine = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}
        stop = {"kill_at": 5, "signal": 15} if rank == 0 else {}
        processes.append(
            start(scenario | stop | {"env": env | mine, "log": str(tmp_path / f"log{rank}")})
        )
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [143, 143], (
        tmp_path / "log0"
    ).read_text() + (tmp_path / "log1").read_text()
    assert checkpoint.latest(tmp_path / "run" / "checkpoints").name == "step_00000006.pt"
    assert run({"run_dir": str(tmp_path / "run")}) == 0


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("gpu1", "gpu1"),
        ("gpu[07-09,12],login1", "gpu07"),
        ("a-b[1,3]-ib", "a-b1-ib"),
        ("x1,x2", "x1"),
    ],
)
def test_first_host_of_a_node_list(nodes, host):
    assert parallel.first_host(nodes) == host


def test_a_device_that_is_not_there_is_a_users_mistake():
    with pytest.raises(ValueError, match="auto, cpu or cuda"):
        parallel.setup("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="0 CUDA devices"):
            parallel.setup("cuda")
