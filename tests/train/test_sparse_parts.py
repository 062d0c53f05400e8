"""The parts of sparse training: densities, drawing, pruning and growing, each alone."""

import math

import pytest
import torch
from torch import nn

from convnext.train.config import SparsityConfig
from convnext.train.sparse_init import draw_mask, generator, kept_counts, maskable
from convnext.train.sparse_update import grow_at_random, grow_by_gradient, prune, prune_rate

SHAPES = {
    "stem": torch.Size((40, 3, 4, 4)),
    "dw": torch.Size((40, 1, 7, 7)),
    "up": torch.Size((160, 40)),
    "down": torch.Size((40, 160)),
    "conv": torch.Size((80, 40, 3, 3)),
    "head": torch.Size((10, 80)),
}


def counts(init, sparsity, scores=None, shapes=SHAPES):
    return kept_counts(SparsityConfig(init=init, sparsity=sparsity), shapes, scores or {})


@pytest.mark.parametrize("sparsity", [0.05, 0.4, 0.9, 0.97])
def test_uniform_density_is_the_same_everywhere(sparsity):
    kept = counts("uniform", sparsity)
    for name, shape in SHAPES.items():
        assert kept[name] == pytest.approx((1 - sparsity) * shape.numel(), abs=0.51)


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.8, 0.95])
def test_erk_density_follows_the_shape_and_saturates_at_dense(sparsity):
    """Against the common factor found by bisection, with every tensor capped at its size."""
    total = sum(shape.numel() for shape in SHAPES.values())
    low, high = 0.0, 1e6
    for _ in range(200):
        factor = (low + high) / 2
        wanted = {n: min(factor * sum(s), s.numel()) for n, s in SHAPES.items()}
        if sum(wanted.values()) < (1 - sparsity) * total:
            low = factor
        else:
            high = factor
    kept = counts("erk", sparsity)
    for name, count in kept.items():
        assert count == pytest.approx(wanted[name], abs=1)
    assert sum(kept.values()) == pytest.approx((1 - sparsity) * total, abs=len(SHAPES))
    if sparsity <= 0.5:
        assert kept["stem"] == SHAPES["stem"].numel()


def test_snip_density_is_the_share_of_the_highest_scores(toy):
    rng = torch.Generator().manual_seed(3)
    scales = {"stem": 0.9, "dw": 1.0, "up": 0.5, "down": 0.2, "conv": 0.1, "head": 0.8}
    scores = {n: scales[n] * torch.randn(s, generator=rng).abs() for n, s in SHAPES.items()}
    total = sum(shape.numel() for shape in SHAPES.values())
    for sparsity in (0.3, 0.6, 0.8):
        kept = counts("snip", sparsity, scores)
        assert kept == toy.snip_naive(scores, round((1 - sparsity) * total))


def test_tensors_almost_full_become_dense_and_the_total_is_kept():
    a, b, c = torch.ones(1000), torch.linspace(0, 0.9, 1000), torch.linspace(0, 0.8, 1000)
    a[:5] = 0  # 99.5 % of it would stay
    shapes = {name: torch.Size((10, 100)) for name in "abc"}
    kept = counts("snip", 0.5, dict(zip("abc", (a, b, c), strict=True)), shapes)
    assert kept["a"] == 1000
    assert kept["b"] + kept["c"] == 500
    assert kept["b"] > kept["c"]


def test_equal_scores_are_shared_out_and_every_tensor_keeps_a_weight():
    shapes = {"a": torch.Size((20, 10)), "b": torch.Size((10, 10)), "c": torch.Size((5, 2))}
    nothing = {name: torch.zeros(shape) for name, shape in shapes.items()}
    kept = counts("snip", 0.5, nothing, shapes)
    assert sum(kept.values()) == 155
    for name, shape in shapes.items():
        assert kept[name] == pytest.approx(shape.numel() / 2, abs=1)
    one_sided = nothing | {"a": torch.rand(200) + 1}
    assert counts("snip", 0.9, one_sided, shapes) == {"a": 29, "b": 1, "c": 1}
    assert counts("uniform", 0.98, shapes=shapes) == {"a": 4, "b": 2, "c": 1}


@pytest.mark.parametrize("init", ["snip", "erk", "uniform"])
def test_sparsities_that_cannot_be_are_refused(init):
    scores = {name: torch.rand(shape) for name, shape in SHAPES.items()}
    with pytest.raises(
        ValueError,
        match=rf"sparsity=0.9999 with init='{init}' leaves 5 weights "
        r"for 6 tensors \(stem and others\).*lower sparsity",
    ):
        counts(init, 0.9999, scores)
    with pytest.raises(ValueError, match=r"every tensor at least 99% full.*raise sparsity, or set"):
        counts(init, 0.00001, scores)


def test_a_drawn_mask_has_the_exact_count_and_every_place_is_equally_likely():
    hits = torch.zeros(6, 5)
    for index in range(2000):
        mask = draw_mask(torch.Size((6, 5)), 7, generator(0, 0, index))
        assert mask.sum() == 7
        hits += mask
    expected = 2000 * 7 / 30
    assert ((hits - expected).abs() < 5 * math.sqrt(expected)).all()
    one, same, other = (
        draw_mask(torch.Size((50, 50)), 900, generator(*key))
        for key in ((1, 2, 3), (1, 2, 3), (1, 3, 2))
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_what_may_be_masked():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.norm = nn.BatchNorm2d(4)
            self.gamma = nn.Parameter(torch.ones(4))
            self.grn = nn.Parameter(torch.ones(1, 1, 1, 4))
            self.fc = nn.Linear(4, 5)
            self.frozen = nn.Linear(4, 5).requires_grad_(False)

    net = Net()
    assert list(maskable(net, ())) == ["conv.weight", "fc.weight"]
    assert list(maskable(net, ("f*",))) == ["fc.weight"]
    assert list(maskable(net, ("fc.weight", "conv.*"))) == ["conv.weight", "fc.weight"]
    for pattern in ("fd.weight", "grn", "frozen.*"):
        with pytest.raises(
            ValueError,
            match=rf"'{pattern.replace('*', '.')}' matches no weight that can be "
            r"sparse; the nearest are .*fc\.weight",
        ):
            maskable(net, ("conv.*", pattern))
    with pytest.raises(ValueError, match="no trainable weight of two or more dimensions"):
        maskable(nn.LayerNorm(3), ())


def test_the_prune_rate_is_a_cosine():
    rates = [prune_rate(0.5, t, 100) for t in range(101)]
    assert rates[0] == 0.5
    assert rates[50] == pytest.approx((0.5 + 0.005) / 2)
    assert rates[100] == pytest.approx(0.005)
    assert rates == sorted(rates, reverse=True)
    assert prune_rate(0.0, 10, 100) == 0.0


def test_pruning_takes_the_smallest_and_growth_gives_back_as_many():
    rng = torch.Generator().manual_seed(0)
    weight, gradient = torch.randn(6, 7, generator=rng), torch.randn(6, 7, generator=rng)
    mask = draw_mask(weight.shape, 20, rng)
    kept, count = prune(weight.to(memory_format=torch.contiguous_format), mask, 0.33)
    assert count == math.ceil(0.33 * 20) == 7
    active = sorted(weight[mask].abs().tolist())
    assert sorted(weight[kept].abs().tolist()) == active[7:]
    assert not (kept & ~mask).any()

    grown = grow_by_gradient(kept, count, gradient)
    largest = sorted(gradient[~kept].abs().tolist())[-7:]
    assert sorted(gradient[grown & ~kept].abs().tolist()) == largest
    assert (grown | ~kept).all()
    gradient[~kept] = torch.nan
    place = (~kept).nonzero()[-1]
    gradient[tuple(place)] = 1e-9
    assert grow_by_gradient(kept, 1, gradient)[tuple(place)]

    hits = torch.zeros(6, 7)
    for index in range(1000):
        new = grow_at_random(kept, count, generator(0, 1, index))
        assert new.sum() == 20
        assert (new | ~kept).all()
        hits += new & ~kept
    expected = 1000 * 7 / 29
    assert ((hits[~kept] - expected).abs() < 5 * math.sqrt(expected)).all()
    assert (prune(weight, mask, 0.0)[0] == mask).all()
    assert not prune(weight, mask, 1.0)[0].any()
