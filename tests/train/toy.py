"""A tiny task with deterministic data, run by the tests in processes of their own.

As a script it runs the scenarios of a JSON file one after another, which is how torchrun gets it.
"""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from convnext.train import checkpoint
from convnext.train.config import OptimConfig, SparsityConfig, TrainConfig
from convnext.train.engine import Engine
from convnext.train.hooks import Hook, JsonlLog, ProgressBar
from convnext.train.parallel import cleanup, setup, whole
from convnext.train.param_groups import build_param_groups

NUM_SAMPLES, CLASSES = 56, 3


class ToyTask(nn.Module):
    """A small ConvNet with cross-entropy; `noise` makes it use all three global generators."""

    def __init__(self, noise: float = 0.0, out_of_memory_above: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.noise, self.limit = noise, out_of_memory_above
        self.body = nn.Sequential(
            nn.Conv2d(3, 7, 3, padding=1), nn.GELU(), nn.Conv2d(7, 6, 2, 2), nn.GELU()
        )
        self.head = nn.Linear(6, CLASSES)
        self.dropout = nn.Dropout(noise)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def logits(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.dropout(self.body(image).mean((2, 3))))

    def forward(self, batch):
        image, label = batch["image"], batch["label"]
        if self.limit is not None and len(image) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if self.noise and self.training:
            image = image * np.random.uniform(0.9, 1.1)
        ce = nn.functional.cross_entropy(self.logits(image), label)
        return {"loss": ce * batch.get("poison", 1.0), "ce": ce}

    def param_groups(self, optim):
        return build_param_groups(self.named_parameters(), weight_decay=optim.weight_decay)

    def shard_modules(self):
        return [self.body]


class ToyBatches:
    """Random images whose class a random linear map decides; order = f(seed, epoch)."""

    def __init__(self, batch_size=16, micro_batch=None, world=1, rank=0, nan_at=None) -> None:
        self.num_samples, self.batch_size = NUM_SAMPLES, batch_size
        self.micro_batch = min(micro_batch or batch_size, batch_size // world)
        self.accum = batch_size // (world * self.micro_batch)
        self.steps_per_epoch = NUM_SAMPLES // batch_size
        self._world, self._rank, self._nan_at = world, rank, nan_at
        generator = torch.Generator().manual_seed(1)
        self.images = torch.randn(NUM_SAMPLES, 3, 8, 8, generator=generator)
        teacher = torch.randn(3, CLASSES, generator=generator)
        self.labels = (self.images.mean((2, 3)) @ teacher).argmax(1)

    def iterate(self, start_step):
        step = start_step
        while True:
            epoch, k = divmod(step, self.steps_per_epoch)
            order = np.random.default_rng((2, epoch)).permutation(NUM_SAMPLES)
            indices = order[k * self.batch_size : (k + 1) * self.batch_size]
            for micro in range(self.accum):
                start = (micro * self._world + self._rank) * self.micro_batch
                mine = torch.from_numpy(indices[start : start + self.micro_batch])
                poison = float("nan") if self._nan_at == step + 1 else 1.0
                yield {
                    "image": self.images[mine],
                    "label": self.labels[mine],
                    "name": [str(i) for i in mine.tolist()],
                    "poison": poison,
                }
            step += 1


def accuracy(module):
    """Scores a task on the training images; a little different on its averaged copy."""
    data = ToyBatches()
    assert not module.training
    logits = module({"image": data.images, "label": data.labels})
    loss = logits["ce"].item()
    return {"score": -loss, "loss": loss, "draw": float(np.random.uniform())}


def slow_accuracy(module):
    print("evaluating", flush=True)
    time.sleep(30)
    return accuracy(module)


def starve(task):
    """Make a forward pass take 64 MiB per image in an address space with room for 600 MiB."""
    logits = task.logits

    def hungry_logits(image):
        keep = torch.zeros(len(image), 2**24, requires_grad=True)
        return logits(image) + keep.sum() * keep[0, 0].detach()

    task.logits = hungry_logits
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + 600 * 2**20, resource.RLIM_INFINITY))


class KillAt(Hook):
    """Ends its own process by a real signal after a step."""

    def __init__(self, step, number):
        self._step, self._number = step, number

    def on_step(self, step):
        if step == self._step:
            os.kill(os.getpid(), self._number)


class Slow(Hook):
    def on_step(self, step):
        time.sleep(0.1)


EVALUATIONS = {"accuracy": accuracy, "slow": slow_accuracy, "none": None}


def build(scenario, world=None, hooks=()):
    """An engine from plain values: run_dir, optim, sparsity, train, noise, kill_at ..."""
    optim = OptimConfig(
        **{"lr": 1e-2, "batch_size": 16, "epochs": 6, "warmup_epochs": 1}
        | {"sparsity": SparsityConfig(**scenario.get("sparsity", {}))}
        | scenario.get("optim", {})
    )
    config = TrainConfig(
        **{"ema_decay": 0.9, "log_every_steps": 4, "device": "cpu", "precision": "fp32"}
        | scenario.get("train", {})
    )
    rank, size = (world.rank, world.size) if world else (0, 1)
    batches = ToyBatches(
        optim.batch_size, config.micro_batch, size, rank, nan_at=scenario.get("nan_at")
    )
    run_dir = Path(scenario["run_dir"])
    hooks = [JsonlLog(run_dir / "metrics.jsonl"), *hooks]
    hooks += [ProgressBar()] if scenario.get("progress") else []
    hooks += [Slow()] if scenario.get("slow") else []
    if "kill_at" in scenario:
        hooks.append(KillAt(scenario["kill_at"], scenario.get("signal", signal.SIGKILL)))
    return Engine(
        ToyTask(scenario.get("noise", 0.0), scenario.get("out_of_memory_above")),
        batches,
        optim,
        config,
        run_dir=run_dir,
        world=world,
        evaluate=EVALUATIONS[scenario.get("evaluate", "accuracy")],
        recipe=scenario.get("recipe"),
        hooks=hooks,
    )


def last(run_dir):
    """The newest checkpoint of a run."""
    return checkpoint.load(checkpoint.paths(run_dir / "checkpoints")[0])


def assert_same(one, other, path=""):
    """Two checkpoints agree in every bit, but for the time that they took."""
    assert type(one) is type(other), path
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one.keys() - {"seconds"}:
            assert_same(one[key], other[key], f"{path}.{key}")
    else:
        assert one == other, path


def records(run_dir):
    """The lines of a run's metrics but for its speed."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("images_per_second", None)
    return lines


def assert_equal_runs(one, other):
    """Two finished runs have the same state, best weights and metrics."""
    assert_same(last(one), last(other))
    best = [checkpoint.load(run_dir / "checkpoints" / "best.pt") for run_dir in (one, other)]
    assert_same(*best)
    assert records(one) == records(other)


def snip_naive(scores, keep):
    """How many of the `keep` highest scores lie in each tensor."""
    flat = sorted(
        ((value, name) for name, score in scores.items() for value in score.flatten().tolist()),
        reverse=True,
    )
    result = dict.fromkeys(scores, 0)
    for _, name in flat[:keep]:
        result[name] += 1
    return result


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def torchrun(scenarios, folder):
    """Run scenarios one after another in two processes that torchrun starts."""
    path = folder / "scenarios.json"
    path.write_text(json.dumps(scenarios))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += [f"--master-port={free_port()}", __file__]
    done = subprocess.run(
        [*command, str(path)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def run(scenario):
    """Run in a process of its own: standard error goes to a file, errors become status 2."""
    torch.set_num_threads(1)
    os.environ.update(scenario.get("env", {}))
    if "log" in scenario:
        log = os.open(scenario["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
    world = setup("cpu")
    try:
        engine = build(scenario, world)
        if scenario.get("hungry"):
            starve(engine.state.task)
        engine.fit()
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr, flush=True)
        sys.exit(2)
    finally:
        cleanup(world)


def main():
    torch.set_num_threads(1)
    world = setup("cpu")
    for scenario in json.loads(Path(sys.argv[1]).read_text()):
        engine = build(scenario, world)
        sharded = scenario["train"].get("parallel") == "fsdp"
        assert sharded == all(isinstance(p, DTensor) for p in engine.state.task.parameters())
        with suppress(SystemExit):  # stopped by its own signal
            engine.fit()
        if sparsity := engine.state.sparsity:
            masks = {name: whole(mask) for name, mask in sparsity.masks.items()}
            torch.save(masks, Path(scenario["run_dir"]) / f"masks_{world.rank}.pt")
    cleanup(world)
    os._exit(0)  # as the command line ends: a thread of gloo may still hold a tensor


if __name__ == "__main__":
    main()
