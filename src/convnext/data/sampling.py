"""The order of the images of an epoch, as a function of the seed and the epoch's number."""

import numpy as np
from numpy.typing import NDArray

_UNIFORM, _BALANCED = 0, 1


def _generator(seed: int, epoch: int, stream: int) -> np.random.RandomState:
    # RandomState's stream is frozen for all versions of numpy, so a run may resume under another.
    return np.random.RandomState([seed & 0xFFFFFFFF, epoch, stream])


def epoch_order(
    num: int, seed: int, epoch: int, *, block: int = 1, window: int = 8192
) -> NDArray[np.int64]:
    """A permutation of 0..num-1 for one epoch.

    With `block` > 1 (tar shards) runs of `block` neighbours are permuted as wholes, then the images
    within each `window` consecutive places: reads of one window stay within window / block runs,
    which the file cache turns into contiguous reads.

    Returns:
        (num,) int64.
    """
    random = _generator(seed, epoch, _UNIFORM)
    if block <= 1:
        return random.permutation(num).astype(np.int64, copy=False)
    starts = random.permutation(np.arange(0, num, block))
    order = (starts[:, None] + np.arange(block)).ravel()
    order = order[order < np.repeat(np.minimum(starts + block, num), block)]
    for start in range(0, num, window):
        random.shuffle(order[start : start + window])
    return order.astype(np.int64, copy=False)


def balanced_order(
    labels: NDArray[np.int64], seed: int, epoch: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """As many draws as there are images, each class equally often (to within one).

    A class is drawn by permutations of its images one after the other, so no image comes again
    before all others of its class have come.

    Returns:
        The image of each draw and how often it was drawn before in this epoch, both (N,) int64.
    """
    random = _generator(seed, epoch, _BALANCED)
    num = len(labels)
    by_class = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[by_class], return_index=True)
    groups = np.split(by_class, starts[1:])
    classes = random.permutation(len(present))
    shares = np.full(len(classes), num // len(classes))
    shares[: num % len(classes)] += 1
    images, repeats = [], []
    for place, share in zip(classes.tolist(), shares, strict=True):
        members = groups[place]
        rounds = -(-int(share) // len(members))
        images.append(np.concatenate([random.permutation(members) for _ in range(rounds)])[:share])
        repeats.append(np.repeat(np.arange(rounds), len(members))[:share])
    order = random.permutation(num)
    return (
        np.concatenate(images)[order].astype(np.int64, copy=False),
        np.concatenate(repeats)[order].astype(np.int64, copy=False),
    )


def class_weights(labels: NDArray[np.int64], num_classes: int) -> NDArray[np.float64]:
    """Loss weights that give every class the same say: w_c = N / (K n_c).

    N images, K classes that have images, n_c images of class c. The mean of w over the images is 1,
    so the size of the loss does not change. A class without images gets weight 0.

    Returns:
        (num_classes,) float64.
    """
    counts = np.bincount(labels, minlength=num_classes)
    present = int((counts > 0).sum())
    weights = np.zeros(num_classes)
    np.divide(counts.sum(), present * counts, out=weights, where=counts > 0)
    return weights
