"""Which tensors may be sparse, how many weights each keeps, and which ones at first."""

import difflib
from collections.abc import Mapping
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from convnext.train.config import SparsityConfig
from convnext.train.randomness import mix

DENSE = 0.99
"""A tensor that would keep this share of its weights, or more, stays dense."""

_STREAM = 0x5BA125E  # sets the masks' random numbers apart from those of the steps


def maskable(task: nn.Module, only: tuple[str, ...]) -> dict[str, nn.Parameter]:
    """The weights that may be sparse, by name and in the order of the task's parameters.

    Those are trainable, of two or more dimensions, and no vectors in disguise: a tensor whose
    size is that of its longest axis (as GRN's gamma and beta, 1 x 1 x 1 x C) never is one.

    Args:
        task: any module.
        only: shell-style patterns of the names to take; empty takes all.

    Raises:
        ValueError: there is no such weight, or none that a pattern matches.
    """
    weights = {
        name: parameter
        for name, parameter in task.named_parameters()
        if parameter.requires_grad
        and parameter.dim() >= 2
        and parameter.numel() > max(parameter.shape)
    }
    if not weights:
        raise ValueError(
            "sparsity: there is no trainable weight of two or more dimensions to mask: set it to 0"
        )
    for pattern in only:
        if not any(fnmatchcase(name, pattern) for name in weights):
            near = difflib.get_close_matches(pattern, weights, n=3, cutoff=0.0)
            raise ValueError(
                f"sparsity.only: {pattern!r} matches no weight that can be sparse; "
                f"the nearest are {', '.join(near)}"
            )
    return {
        name: weight
        for name, weight in weights.items()
        if not only or any(fnmatchcase(name, pattern) for pattern in only)
    }


def generator(seed: int, step: int, index: int) -> torch.Generator:
    """Random numbers on the CPU for the mask of tensor `index` after `step` steps."""
    return torch.Generator().manual_seed(mix(_STREAM, seed, step, index))


def draw_mask(shape: torch.Size, kept: int, random: torch.Generator) -> Tensor:
    """A mask (bool, CPU) with exactly `kept` entries on, every choice equally likely."""
    mask = torch.zeros(shape.numel(), dtype=torch.bool)
    mask[torch.randperm(shape.numel(), generator=random)[:kept]] = True
    return mask.view(shape)


def kept_counts(
    config: SparsityConfig, shapes: Mapping[str, torch.Size], scores: Mapping[str, Tensor]
) -> dict[str, int]:
    """How many weights every tensor keeps, K = round((1 - S) * N) of all N.

    With n_i the size of tensor i and d_i the share of it that is kept:
        "uniform": d_i = K / N;
        "erk":     d_i = e * sum(shape_i) / n_i, with e such that the total is K;
        "snip":    d_i * n_i = how many of the K highest scores lie in tensor i; scores equal to
                   the K-th count in proportion to their number in each tensor.
    Tensors with d_i >= 0.99 become dense, and the rule is applied again to the other tensors and
    what is left of K, until there are no more of them. Every tensor keeps at least one weight.

    Args:
        config: sparsity S and rule.
        shapes: shape of every tensor by name.
        scores: |w * dL/dw| of every tensor, finite, on the CPU; needed by "snip" only.

    Returns:
        Numbers of weights in the order of `shapes`; for a dense tensor its size.

    Raises:
        ValueError: a sparsity that leaves less than one weight per tensor, or so low that every
            tensor would be dense.

    Source: SNIP (Lee et al., ICLR 2019), section 4; RigL (Evci et al., ICML 2020), section 3(1),
        for "erk"; SLaK (Liu et al., ICLR 2023).
    """
    sizes = {name: shape.numel() for name, shape in shapes.items()}
    ranked = {name: _one_protected(score) for name, score in scores.items()}

    def share(names: list[str], budget: int) -> list[int]:
        if config.init == "snip":
            return _highest([ranked[name] for name in names], budget)
        by_shape = config.init == "erk"
        return _split(budget, [sum(shapes[n]) if by_shape else sizes[n] for n in names])

    counts = dict(sizes)
    free, budget = list(sizes), round((1 - config.sparsity) * sum(sizes.values()))
    while free:
        if budget < len(free):
            raise ValueError(
                f"sparsity={config.sparsity} with init={config.init!r} leaves {max(budget, 0)} "
                f"weights for {len(free)} tensors ({free[0]} and others), each of which must keep "
                "one: lower sparsity"
            )
        found = dict(zip(free, share(free, budget), strict=True))
        full = {name for name, count in found.items() if count >= DENSE * sizes[name]}
        if not full:
            return counts | found
        free = [name for name in free if name not in full]
        budget -= sum(sizes[name] for name in full)
    raise ValueError(
        f"sparsity={config.sparsity} with init={config.init!r} would leave every tensor at least "
        f"{DENSE:.0%} full, and such tensors stay dense: raise sparsity, or set it to 0"
    )


def _split(budget: int, parts: list[int]) -> list[int]:
    """`budget` in proportion to `parts`, each rounded but at least 1."""
    return [max(1, round(budget * part / sum(parts))) for part in parts]


def _one_protected(score: Tensor) -> Tensor:
    """Scores as a vector whose highest counts as infinite, so that the tensor keeps a weight."""
    score = score.flatten().clone()
    score[score.argmax()] = torch.inf
    return score


def _highest(scores: list[Tensor], budget: int) -> list[int]:
    """How many of the `budget` highest of all scores lie in each tensor."""
    everything = torch.cat(scores)
    limit = everything.kthvalue(everything.numel() - budget + 1).values
    above = [int((score > limit).sum()) for score in scores]
    equal = [int((score == limit).sum()) for score in scores]
    tied = _apportion(budget - sum(above), equal)
    return [one + other for one, other in zip(above, tied, strict=True)]


def _apportion(total: int, parts: list[int]) -> list[int]:
    """Split `total` <= sum(parts) in proportion to `parts`, exactly: largest remainders first."""
    pairs = [divmod(total * part, sum(parts)) for part in parts]
    counts = [quotient for quotient, _ in pairs]
    order = sorted(range(len(parts)), key=lambda i: pairs[i][1], reverse=True)
    for index in order[: total - sum(counts)]:
        counts[index] += 1
    return counts
