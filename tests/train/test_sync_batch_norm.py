"""Batch norm over two processes is batch norm of all their samples."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from convnext.layers.sync_batch_norm import SyncBatchNorm2d, synced

COUNTS = {"even": (3, 3), "uneven": (1, 4), "one_empty": (5, 0)}


def samples(name):
    generator = torch.Generator().manual_seed(len(name))
    x = 3 + 2 * torch.randn(sum(COUNTS[name]), 4, 5, 6, generator=generator, dtype=torch.float64)
    weight = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    return x, weight


def norm():
    torch.manual_seed(0)
    layer = nn.BatchNorm2d(4).double()
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    return layer


def train(layer, x, weight):
    x = x.clone().requires_grad_()
    y = layer(x)
    (y * weight).sum().backward()
    return {"y": y.detach(), "x": x.grad, "weight": layer.weight.grad, "bias": layer.bias.grad} | {
        name: buffer.clone() for name, buffer in layer.named_buffers()
    }


def rank_main(rank, folder):
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    results = {}
    for name, counts in COUNTS.items():
        x, weight = (tensor.split(counts)[rank] for tensor in samples(name))
        results[name] = train(synced(norm()), x, weight)
    torch.save(results, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    ranks = [
        subprocess.Popen([sys.executable, __file__, str(folder), str(rank)]) for rank in (0, 1)
    ]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("name", COUNTS)
def test_two_processes_equal_one(results, name):
    expected = train(norm(), *samples(name))
    found = [result[name] for result in results]
    for key in ("y", "x"):
        torch.testing.assert_close(torch.cat([f[key] for f in found]), expected[key])
    for key in ("weight", "bias"):  # each process has its own samples' part
        torch.testing.assert_close(found[0][key] + found[1][key], expected[key])
    for key in ("running_mean", "running_var", "num_batches_tracked"):
        for f in found:
            torch.testing.assert_close(f[key], expected[key])


def test_parameters_stay_the_same_and_alone_it_is_batch_norm():
    inner = norm()
    module = nn.Sequential(nn.Sequential(inner), nn.ReLU())
    before = dict(module.named_parameters()) | dict(module.named_buffers())
    after = synced(module)
    assert isinstance(after[0][0], SyncBatchNorm2d)
    now = dict(after.named_parameters()) | dict(after.named_buffers())
    assert before.keys() == now.keys()
    assert all(before[name] is now[name] for name in before)
    x, weight = samples("even")
    expected = train(norm(), x, weight)
    for key, value in train(after[0][0], x, weight).items():
        torch.testing.assert_close(value, expected[key])


if __name__ == "__main__":
    torch.set_num_threads(1)
    rank_main(int(sys.argv[2]), Path(sys.argv[1]))
