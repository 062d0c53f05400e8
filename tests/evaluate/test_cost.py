"""Parameters and multiply-accumulates by hand and as published; speed and memory are measured."""

import pytest
import torch
from torch import nn

from convnext.evaluate.cost import macs, measure_cost, num_params, peak_memory, throughput
from convnext.models.registry import build_model


def small_net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.Conv2d(8, 8, 7, padding=3, groups=8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(8, 5),
    )


def test_counts_by_hand():
    net = small_net()
    assert num_params(net) == (8 * 27 + 8) + (8 * 49 + 8) + (8 * 5 + 5)
    assert macs(net, (3, 10, 14)) == 5 * 7 * (8 * 27 + 8 * 49) + 8 * 5
    assert net.training
    assert next(net.parameters()).device.type == "cpu"


def test_convnext_tiny_costs_what_the_paper_says():
    with torch.device("meta"):
        net = build_model("convnext_tiny")
    assert num_params(net) == 28_589_128
    assert round(macs(net, (3, 224, 224)) / 1e9, 4) == 4.4555


def test_throughput_and_memory_are_measured():
    cost = measure_cost(small_net(), (3, 32, 32), batch_size=4, seconds=0.05)
    assert cost.images_per_second > 0
    assert cost.peak_memory > 50e6  # torch alone
    assert cost.to_json()["input_shape"] == [3, 32, 32]
    assert cost.device == "CPU"
    with pytest.raises(ValueError, match="at least 1, got 0"):
        measure_cost(small_net(), (3, 32, 32), batch_size=0)


def test_a_network_with_more_work_is_slower():
    batch = torch.zeros(2, 3, 64, 64)
    light = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten())
    heavy = nn.Sequential(nn.Conv2d(3, 8, 3), *[nn.Conv2d(8, 8, 7) for _ in range(8)], nn.Flatten())
    assert throughput(light, batch, seconds=0.1) > throughput(heavy, batch, seconds=0.1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_peak_memory_on_cuda_is_the_allocators():
    device = torch.device("cuda")
    torch.cuda.reset_peak_memory_stats(device)
    before = peak_memory(device)
    block = torch.empty(2**20, 8, device=device)
    assert peak_memory(device) >= before + block.nbytes
    assert measure_cost(small_net().to(device), (3, 32, 32), batch_size=4, seconds=0.05)
