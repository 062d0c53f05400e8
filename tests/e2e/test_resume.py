"""Real processes that are killed and started again."""

import json
import random
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from convnext.cli import main

LENGTH = ("--epochs", "4", "--train.checkpoint-every-steps", "3", "--train.ema-decay", "0.9")
MIXING = ("--task.mixup", "0.8", "--task.cutmix", "1.0", "--task.drop-path-rate", "0.3")
TIMEOUT = 120.0


def last_step(out):
    """The newest step in metrics.jsonl; a line may be half-written."""
    path = out / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    steps = [json.loads(line)["step"] for line in lines if line.endswith("}")]
    return max(steps, default=0)


def wait_for_step(process, out, step):
    """Wait until a step is logged; False if the process ended first."""
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        if process.poll() is not None:
            return False
        if last_step(out) >= step:
            return True
        time.sleep(0.005)
    raise AssertionError("no progress")


def final_state(out):
    weights = load_file(out / "weights" / "model.safetensors")
    checkpoint = torch.load(out / "checkpoints" / "step_00000016.pt", weights_only=True)
    return weights, checkpoint["task"], checkpoint["ema"], checkpoint["optimizer"]


def assert_identical(one, other):
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_identical(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_identical(a, b)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


@pytest.fixture(scope="module")
def reference(tmp_path_factory, train_arguments):
    """A run that nothing interrupts."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes that are killed
    out = tmp_path_factory.mktemp("reference") / "run"
    assert main(train_arguments(out, *LENGTH, *MIXING)) == 0
    torch.set_num_threads(threads)
    return out


@pytest.mark.parametrize(("workers", "kills"), [("0", 2), ("2", 1)])
def test_kill_9_and_the_same_command_end_in_the_same_bits(
    workers, kills, reference, train_arguments, start, tmp_path
):
    out = tmp_path / "run"
    command = train_arguments(out, *LENGTH, *MIXING, "--workers", workers)
    draw = random.Random(int(workers))
    step = 0
    for _ in range(kills):
        step = draw.randint(step + 1, 15)
        with start(command) as process:
            assert wait_for_step(process, out, step), process.stdout.read()
            process.kill()
            process.stdout.close()
        assert process.returncode == -signal.SIGKILL
    with start(command) as process:
        said = process.stdout.read()
    assert process.returncode == 0, said
    assert step < 3 or "resuming from" in said
    assert_identical(final_state(reference), final_state(out))
    whole, cut = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (reference, out)
    )
    assert [(x["kind"], x["step"]) for x in whole] == [(x["kind"], x["step"]) for x in cut]
    assert [x.get("loss") for x in whole] == [x.get("loss") for x in cut]


def test_sigterm_saves_and_the_same_command_goes_on(train_arguments, start, tmp_path, capsys):
    out = tmp_path / "run"
    command = train_arguments(out, *LENGTH, "--train.checkpoint-every-steps", "100")
    with start(command) as process:
        assert wait_for_step(process, out, 2), process.stdout.read()
        process.terminate()
        said = process.stdout.read()
    assert process.returncode == 143, said
    assert "the same command resumes" in said
    (saved,) = (out / "checkpoints").glob("step_*.pt")
    assert not (out / "weights").exists()
    assert main(command) == 0
    assert f"resuming from {saved}" in capsys.readouterr().err
    assert (out / "report.html").is_file()


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_train_the_weights_that_one_trains(
    parallel, train_arguments, start, tmp_path
):
    out = tmp_path / "run"
    plain = ("--task.mixup", "0", "--task.cutmix", "0", "--task.drop-path-rate", "0")
    plain += ("--train.precision", "fp32", "--train.parallel", parallel)
    one = tmp_path / "one"
    assert main(train_arguments(one, *LENGTH, *plain, "--train.micro-batch", "4")) == 0
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")
    with start(train_arguments(out, *LENGTH, *plain), prefix=torchrun) as process:
        said = process.stdout.read()
    assert process.returncode == 0, said
    assert "effective batch 8 = 2 x 1 x 4" in said
    assert said.count("weights: ") == 1  # only the first process speaks
    for a, b in zip(final_state(one)[1:3], final_state(out)[1:3], strict=True):
        assert a.keys() == b.keys()
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=0, atol=1e-6)
    scores = [json.loads((folder / "evaluation.json").read_text()) for folder in (one, out)]
    assert scores[0]["val"]["num_images"] == scores[1]["val"]["num_images"] == 18
    assert scores[0]["test"]["loss"] == pytest.approx(scores[1]["test"]["loss"], abs=1e-5)
