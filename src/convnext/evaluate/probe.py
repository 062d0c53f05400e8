"""Judging frozen features without fine-tuning: nearest neighbours and a linear classifier."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["knn", "linear_probe", "standardised"]

CHUNK = 1024  # queries at a time
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def standardised(train: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Features with mean 0 and deviation 1 on the training images; constant ones become 0."""
    mean, std = train.mean(0), train.std(0)
    scale = torch.where(std > 1e-8 * mean.abs().clamp_min(1e-8), 1 / std.clamp_min(1e-30), 0.0)
    return tuple((x - mean) * scale for x in (train, *others))


def knn(
    train: Tensor,
    labels: Tensor,
    queries: Tensor,
    *,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
) -> Tensor:
    """Class scores by a weighted vote of the k nearest training images.

    score_c = Σ over the k nearest i of class c of exp(cos(q, x_i) / T).

    Args:
        train: (N, C) features.
        labels: (N,) classes.
        queries: (M, C) features.
        num_classes: Number of classes K.
        k: Neighbours; at most N are used.
        temperature: T.

    Returns:
        (M, K) scores.

    Source: Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination",
    CVPR 2018, section 3.4.
    """
    train, k = F.normalize(train, dim=1), min(k, len(train))
    parts = []
    for start in range(0, len(queries), CHUNK):
        chunk = queries[start : start + CHUNK]
        similarity = F.normalize(chunk, dim=1) @ train.T  # queries, N
        nearest, which = similarity.topk(k, dim=1)
        votes = (nearest / temperature).exp()
        scores = votes.new_zeros(len(chunk), num_classes)
        parts.append(scores.scatter_add_(1, labels[which], votes))
    return torch.cat(parts)


def linear_probe(
    train: Tensor, labels: Tensor, queries: Tensor, *, num_classes: int, seed: int = 0
) -> tuple[Tensor, float]:
    """Class scores of a multinomial logistic regression on frozen features.

    The strength λ of λ |W|² / 2 is the best of `STRENGTHS` on a fifth of the training images, held
    out by the seed; then all of them are used.

    Args:
        train: (N, C) standardised features.
        labels: (N,) classes.
        queries: (M, C) features, standardised likewise.
        num_classes: Number of classes K.
        seed: Of the held-out part.

    Returns:
        (M, K) scores, and λ.
    """
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    held, kept = order[: len(order) // 5], order[len(order) // 5 :]
    best, strength = -1.0, STRENGTHS[-1]
    for candidate in STRENGTHS if len(held) else ():
        weight, bias = _fit(train[kept], labels[kept], num_classes, candidate)
        right = ((train[held] @ weight + bias).argmax(1) == labels[held]).float().mean().item()
        if right > best:
            best, strength = right, candidate
    weight, bias = _fit(train, labels, num_classes, strength)
    return queries @ weight + bias, strength


def _fit(x: Tensor, y: Tensor, num_classes: int, strength: float) -> tuple[Tensor, Tensor]:
    """The minimum of the regularised cross-entropy, which is convex, by L-BFGS."""
    weight = x.new_zeros(x.shape[1], num_classes, requires_grad=True)
    bias = x.new_zeros(num_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=200, tolerance_grad=1e-5, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        with torch.enable_grad():
            loss = F.cross_entropy(x @ weight + bias, y) + strength * weight.square().sum() / 2
        torch.autograd.backward(loss)
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()
