"""Learning rate and weight decay of every optimiser step, as arrays computed before the first."""

import math

import numpy as np
import numpy.typing as npt

from convnext.train.config import OptimConfig

FloatArray = npt.NDArray[np.float64]

WARMUP_START = {"steps": 1e-3, "poly": 1e-6}  # share of the learning rate at the first step
DROP = 0.1


def lr_schedule(optim: OptimConfig, steps_per_epoch: int) -> FloatArray:
    """Learning rate of every step: linear warm-up, then a fall.

    "per_step" (V1), with W warm-up steps and N steps after them:
        lr[0..W-1] = linspace(0, lr, W), both ends included;
        lr[W + i]  = min_lr + (lr - min_lr) / 2 * (1 + cos(pi * i / N)), i = 0..N-1.
    "per_epoch_fraction" (V2), with e = step / steps_per_epoch, w warm-up and E all epochs:
        lr = lr * e / w for e < w;
        lr = min_lr + (lr - min_lr) / 2 * (1 + cos(pi * (e - w) / (E - w))) after.
    "steps" (detection), with W warm-up steps:
        lr[i] = lr * (0.001 + 0.999 * i / W), i = 0..W-1; lr after; and all of it times 0.1 from
        each share of the run in `drops` on.
    "poly" (segmentation), with W warm-up steps of N steps in all:
        lr[i] = min_lr + (lr - min_lr) * (1 - i / N), and of the first W values
        lr[i] times (1e-6 + (1 - 1e-6) * i / W).

    Args:
        optim: peak, floor, length, warm-up and rule.
        steps_per_epoch: optimiser steps per epoch.

    Returns:
        float64 array of `optim.total_steps(steps_per_epoch)` values.

    Raises:
        ValueError: the warm-up is longer than the run.

    Source: ConvNeXt, Table 5 (V1) and appendix A.3 (detection, segmentation); ConvNeXt V2, Table 11
    (V2).
    """
    total, warmup = optim.total_steps(steps_per_epoch), _warmup(optim, steps_per_epoch)
    if warmup > total:
        raise ValueError(
            f"the warm-up of {warmup:g} steps is longer than the run of {total} steps; set "
            f"warmup_steps to {total} or less, or train longer"
        )
    if optim.schedule == "steps":
        return _steps(optim, total, round(warmup))
    if optim.schedule == "poly":
        return _poly(optim, total, round(warmup))
    if optim.schedule == "per_step":
        return _per_step(optim, total, int(warmup))
    return _per_epoch_fraction(optim, total, steps_per_epoch)


def weight_decay_schedule(optim: OptimConfig, steps_per_epoch: int) -> FloatArray:
    """Weight decay of every step: half a cosine from weight_decay to weight_decay_end.

    wd[i] = end + (start - end) / 2 * (1 + cos(pi * i / N)), constant when there is no end.

    Returns:
        float64 array of `optim.total_steps(steps_per_epoch)` values.
    """
    start = optim.weight_decay
    end = start if optim.weight_decay_end is None else optim.weight_decay_end
    return _half_cosine(start, end, optim.total_steps(steps_per_epoch))


def _half_cosine(start: float, end: float, steps: int) -> FloatArray:
    return np.array(
        [end + 0.5 * (start - end) * (1 + math.cos(math.pi * i / steps)) for i in range(steps)],
        dtype=np.float64,
    )


def _warmup(optim: OptimConfig, steps_per_epoch: int) -> float:
    if optim.warmup_steps is not None:
        return optim.warmup_steps
    return optim.warmup_epochs * steps_per_epoch


def _per_step(optim: OptimConfig, total: int, warmup: int) -> FloatArray:
    rise = np.linspace(0, optim.lr, warmup)
    return np.concatenate((rise, _half_cosine(optim.lr, optim.min_lr, total - warmup)))


def _rise(optim: OptimConfig, warmup: int) -> FloatArray:
    """Factors of the learning rate during the warm-up."""
    start = WARMUP_START[optim.schedule]
    rise: FloatArray = start + (1 - start) * np.arange(warmup) / max(warmup, 1)
    return rise


def _steps(optim: OptimConfig, total: int, warmup: int) -> FloatArray:
    lr = np.full(total, optim.lr)
    lr[:warmup] *= _rise(optim, warmup)
    for share in optim.drops:
        lr[round(share * total) :] *= DROP
    return lr


def _poly(optim: OptimConfig, total: int, warmup: int) -> FloatArray:
    lr: FloatArray = optim.min_lr + (optim.lr - optim.min_lr) * (1 - np.arange(total) / total)
    lr[:warmup] *= _rise(optim, warmup)
    return lr


def _per_epoch_fraction(optim: OptimConfig, total: int, steps_per_epoch: int) -> FloatArray:
    epochs = optim.epochs if optim.steps is None else total / steps_per_epoch
    warmup = optim.warmup_epochs
    if optim.warmup_steps is not None:
        warmup = optim.warmup_steps / steps_per_epoch
    span = optim.lr - optim.min_lr

    def value(e: float) -> float:
        if e < warmup:
            return optim.lr * e / warmup
        return optim.min_lr + span * 0.5 * (
            1 + math.cos(math.pi * (e - warmup) / (epochs - warmup))
        )

    return np.array(
        [value(i // steps_per_epoch + i % steps_per_epoch / steps_per_epoch) for i in range(total)]
    )
