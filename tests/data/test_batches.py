"""Order and augmentation are functions of (seed, epoch, index), for any workers, ranks, accum."""

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from itertools import islice

import numpy as np
import psutil
import pytest
import torch

from convnext.data import (
    DataConfig,
    EvalBatches,
    ImageDataset,
    TrainBatches,
    class_weights,
    eval_dataset,
    open_splits,
    plan_accumulation,
    train_dataset,
)
from convnext.data.dataset import Key
from convnext.data.sampling import balanced_order, epoch_order


@pytest.fixture
def dataset(make_folder):
    root = make_folder({"a": 13, "b": 5, "c": 3})
    config = DataConfig(path=str(root), image_size=64, val_fraction=0.0)
    return train_dataset(open_splits(config).train, config, seed=7)


def take(batches, count, start=0):
    stream = batches.iterate(start)
    taken = list(islice(stream, count))
    stream.close()
    return taken


def same(first, second):
    return all(
        torch.equal(a[key], b[key])
        for a, b in zip(first, second, strict=True)
        for key in ("image", "label", "index")
    )


def test_workers_change_nothing(dataset):
    taken = [
        take(TrainBatches(dataset, batch_size=6, micro_batch=2, seed=3, workers=workers), 12)
        for workers in (0, 2)
    ]
    assert same(*taken)
    assert taken[0][0]["image"].shape == (2, 3, 64, 64)
    assert torch.equal(
        taken[0][0]["label"], torch.tensor(dataset.source.labels)[taken[0][0]["index"]]
    )


@pytest.mark.parametrize("sampling", ["uniform", "balanced"])
@pytest.mark.parametrize("start", [1, 2, 3, 7])
def test_starting_later_is_skipping(dataset, sampling, start):
    """Three steps an epoch: starts in the middle, at the boundary and in later epochs."""
    batches = TrainBatches(dataset, batch_size=6, micro_batch=3, sampling=sampling)
    assert (batches.steps_per_epoch, batches.accum) == (3, 2)
    whole = take(batches, 2 * (start + 2))
    assert same(take(batches, 4, start), whole[2 * start :])


@pytest.mark.parametrize("sampling", ["uniform", "balanced"])
def test_effective_batch_is_the_same_for_any_sharing(dataset, sampling):
    def images(world, limit, step):
        parts = [
            TrainBatches(
                dataset, batch_size=12, micro_batch=limit, world=world, rank=rank, sampling=sampling
            ).keys(step)
            for rank in range(world)
        ]
        return [key for part in parts for micro in part for key in micro]

    for step in range(3):
        whole = images(1, None, step)
        assert len(set(whole)) == 12
        for world, limit in ((1, 5), (2, None), (2, 2), (3, 1), (4, 3), (12, 1)):
            assert sorted(images(world, limit, step)) == sorted(whole)
    # One process with two micro-steps sees, one after the other, what two processes see at once.
    one = TrainBatches(dataset, batch_size=12, micro_batch=6).keys(1)
    two = [TrainBatches(dataset, batch_size=12, world=2, rank=rank).keys(1) for rank in (0, 1)]
    assert one == [two[0][0], two[1][0]]


def test_an_epoch_sees_every_image_once(dataset):
    batches = TrainBatches(dataset, batch_size=7)
    epochs = [[key for step in (0, 1, 2) for key in batches.keys(step + 3 * e)[0]] for e in (0, 1)]
    orders = [[key.image for key in keys] for keys in epochs]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(21))
    assert orders[0] != orders[1]
    assert {key.epoch for key in epochs[1]} == {1}


def test_augmentation_depends_on_seed_epoch_and_image_only(dataset):
    def view(seed=7, epoch=0, image=4, repeat=0):
        changed = ImageDataset(dataset.source, dataset.transform, seed)
        return changed[epoch, image, repeat]["image"]

    random.seed(1)
    first = view()
    random.seed(2)
    np.random.seed(5)
    torch.rand(3)
    assert torch.equal(view(), first)
    for other in ({"seed": 8}, {"epoch": 1}, {"image": 5}, {"repeat": 1}):
        assert not torch.equal(view(**other), first), other
    batch = dataset.fetch([Key(0, 9), Key(0, 4)])  # the neighbours in a batch do not matter
    assert torch.equal(batch["image"][1], first)
    assert batch["index"].tolist() == [9, 4]


def test_loading_leaves_the_generators_of_the_training_loop_alone(dataset):
    def states():
        return random.random(), np.random.rand(), torch.rand(1).item()

    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = states()
    for workers in (0, 2):
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        take(TrainBatches(dataset, batch_size=4, workers=workers), 2)
        assert states() == expected


def test_accumulation_plans():
    assert plan_accumulation(4096, 128, world=8) == (128, 4)
    assert plan_accumulation(512, None) == (512, 1)
    assert plan_accumulation(12, 5) == (4, 3)
    assert plan_accumulation(18, 9, even=True) == (6, 3)
    assert plan_accumulation(7, 3) == (1, 7)
    with pytest.raises(ValueError, match=r"10 cannot be shared by 4 processes.*: 8 or 12"):
        plan_accumulation(10, None, world=4)
    with pytest.raises(ValueError, match=r"3 cannot be shared by 4 processes.*that can: 4"):
        plan_accumulation(3, None, world=4)
    with pytest.raises(ValueError, match=r"mixup.*: 12 or 16"):
        plan_accumulation(14, None, world=2, even=True)
    with pytest.raises(ValueError, match="give at least 1"):
        plan_accumulation(8, 0)


def test_a_batch_larger_than_the_data_is_refused(dataset):
    with pytest.raises(ValueError, match="batch size 22 is larger than the 21 training images"):
        TrainBatches(dataset, batch_size=22)


def test_balanced_sampling():
    labels = np.repeat([0, 1, 2], [90, 9, 2]).astype(np.int64)
    order, repeats = balanced_order(labels, seed=0, epoch=0)
    assert sorted(np.bincount(labels[order])) == [33, 34, 34]
    counts = Counter(order.tolist())
    assert max(counts[i] for i in range(90)) == 1  # a large class is not repeated
    assert {counts[i] for i in range(90, 99)} <= {3, 4}  # a small one evenly
    assert len(set(zip(order.tolist(), repeats.tolist(), strict=True))) == len(order)
    again, _ = balanced_order(labels, seed=0, epoch=0)
    later, _ = balanced_order(labels, seed=0, epoch=1)
    assert np.array_equal(order, again)
    assert not np.array_equal(order, later)


def test_class_weights_keep_the_mean_at_one():
    labels = np.array([0] * 8 + [1] * 2 + [3] * 2, np.int64)
    weights = class_weights(labels, 4)
    assert weights.tolist() == [0.5, 2.0, 0.0, 2.0]
    assert weights[labels].mean() == 1.0


def test_order_of_shards_is_local_and_complete():
    order = epoch_order(10_007, 1, 2, block=64, window=1024)
    assert sorted(order.tolist()) == list(range(10_007))
    for start in range(0, 10_007, 1024):
        blocks = {i // 64 for i in order[start : start + 1024].tolist()}
        assert len(blocks) <= 1024 // 64 + 2  # at most two of them shared with the neighbours
    assert np.corrcoef(order, np.arange(10_007))[0, 1] < 0.1
    # The order is part of what a resumed run relies on: it must not change between versions.
    assert epoch_order(8, 0, 0).tolist() == [2, 6, 0, 4, 1, 3, 5, 7]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_evaluation_sees_every_image_once(dataset, world, workers):
    parts = [
        EvalBatches(dataset, batch_size=4, world=world, rank=rank, workers=workers)
        for rank in range(world)
    ]
    assert len({len(part) for part in parts}) == 1
    seen = []
    for _ in range(2):  # a second pass gives the same
        runs = [list(part) for part in parts]
        shapes = {tuple(tuple(batch["image"].shape) for batch in run) for run in runs}
        assert len(shapes) == 1  # the ranks stay in step
        assert len(runs[0]) == len(parts[0])
        seen.append(sorted(i for run in runs for b in run for i in b["index"].tolist() if i >= 0))
    assert seen[0] == seen[1] == list(range(21))


def test_unreadable_image_in_a_loader_process_is_one_message(dataset, tmp_path):
    """Also one that breaks after the data were checked."""
    (tmp_path / "set/a/002.png").write_bytes(b"broken")
    for workers in (0, 2):
        with pytest.raises(ValueError, match=r"^\S+set/a/002\.png: not an image[^\n]*$"):
            take(TrainBatches(dataset, batch_size=21, workers=workers), 1)
    (tmp_path / "set/a/002.png").unlink()
    for workers in (0, 2):
        with pytest.raises(OSError, match=r"^\S+002\.png: cannot be read \(No such file[^\n]*$"):
            take(TrainBatches(dataset, batch_size=21, workers=workers), 1)


SCRIPT = """
import signal, sys
import torch
from convnext.data import *
config = DataConfig(path=sys.argv[1], image_size=32, val_fraction=0.0)
source = open_splits(config).train
stream = TrainBatches(eval_dataset(source, config), batch_size=8, workers=2).iterate()
held = EvalBatches(eval_dataset(source, config), batch_size=8, workers=2)
next(stream), list(held)
print("ready", flush=True)
sys.stdin.readline()
for _ in range(20):
    next(stream)
print("done", flush=True)
"""


def start_script(root):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.slow
def test_loaders_outlive_signals_to_the_group_but_not_their_parent(make_folder):
    root = make_folder({"a": 9, "b": 9})
    with start_script(root) as process:
        loaders = psutil.Process(process.pid).children()
        assert len(loaders) == 4
        for loader in loaders:
            loader.send_signal(signal.SIGTERM)
            loader.send_signal(signal.SIGINT)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"
        assert process.wait(60) == 0  # and a program with live loaders can end
    with start_script(root) as process:
        loaders = psutil.Process(process.pid).children()
        process.kill()
        _, alive = psutil.wait_procs(loaders, timeout=30)
        assert not alive


def test_eval_dataset_draws_nothing(dataset):
    config = DataConfig(image_size=64)
    held = eval_dataset(dataset.source, config)
    assert torch.equal(held[0, 3]["image"], held[5, 3]["image"])
    assert held[3]["label"].item() == dataset.source.labels[3]
