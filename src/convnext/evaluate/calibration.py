"""Is the network as sure as it is right? Calibration error, reliability bins, temperature."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from convnext.evaluate.result import ReliabilityBin, TemperatureFit

NUM_BINS = 15
TEMPERATURE_LIMITS = (0.05, 20.0)
_CHUNK = 2**22  # logits held in float64 at a time (32 MB)


def reliability_bins(
    confidence: npt.NDArray[np.floating[Any]], correct: npt.NDArray[np.bool_]
) -> tuple[ReliabilityBin, ...]:
    """Group predictions by confidence into 15 bins ``((b-1)/15, b/15]`` of equal width.

    Args:
        confidence: ``(n,)`` probability of the predicted class, 0..1.
        correct: ``(n,)`` whether the prediction is right.

    Returns:
        One entry a bin; accuracy and confidence are None where the bin is empty.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 2.
    """
    bins = np.clip(np.ceil(confidence.astype(np.float64) * NUM_BINS).astype(np.int64) - 1, 0, 14)
    count = np.bincount(bins, minlength=NUM_BINS)
    sure = np.bincount(bins, weights=confidence.astype(np.float64), minlength=NUM_BINS)
    right = np.bincount(bins, weights=correct.astype(np.float64), minlength=NUM_BINS)
    return tuple(
        ReliabilityBin(
            low=b / NUM_BINS,
            high=(b + 1) / NUM_BINS,
            count=int(count[b]),
            accuracy=float(right[b] / count[b]) if count[b] else None,
            confidence=float(sure[b] / count[b]) if count[b] else None,
        )
        for b in range(NUM_BINS)
    )


def expected_calibration_error(bins: tuple[ReliabilityBin, ...]) -> float:
    """Mean gap between confidence and accuracy, ``ECE = sum_b n_b / n |acc_b - conf_b|``.

    Returns:
        A value in 0..1; 0 is perfect.

    Source: Guo et al., ICML 2017, equation 3.
    """
    total = sum(b.count for b in bins)
    gaps = (
        b.count * abs(b.accuracy - b.confidence)
        for b in bins
        if b.accuracy is not None and b.confidence is not None
    )
    return sum(gaps) / total


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature ``T`` that minimises the mean of ``-log softmax(z / T)[y]``.

    The loss is convex in ``b = 1 / T``: its derivative is ``E_p[z] - z_y`` and its second
    derivative ``Var_p[z]``, with ``p = softmax(b z)``. Newton steps are kept inside a shrinking
    bracket, so that the search cannot diverge.

    Args:
        logits: ``(n, K)``.
        labels: ``(n,)`` int64.

    Returns:
        ``T`` within ``TEMPERATURE_LIMITS``. A set without a single mistake has no finite optimum
        and ends at the lower limit.

    Source: Guo et al., ICML 2017, section 4.2.
    """
    low, high = 1 / TEMPERATURE_LIMITS[1], 1 / TEMPERATURE_LIMITS[0]
    beta = 1.0
    for _ in range(60):
        slope = curvature = 0.0
        for z, y in _chunks(logits, labels):
            p = (beta * z).softmax(dim=1)
            mean = (p * z).sum(dim=1)  # (n,)
            slope += float((mean - z.gather(1, y[:, None])[:, 0]).sum())
            curvature += float((p * (z - mean[:, None]).square()).sum())
        low, high = (low, beta) if slope > 0 else (beta, high)
        step = beta - slope / curvature if curvature > 0 else low
        previous, beta = beta, step if low < step < high else (low + high) / 2
        if abs(beta - previous) < 1e-9 * beta:
            break
    return 1 / beta


def measure_temperature(logits: Tensor, labels: Tensor) -> TemperatureFit | None:
    """Fit a temperature on every other image and measure its effect on the remaining ones.

    The images that choose ``T`` are never those on which the effect is measured. Both halves come
    from the set that was evaluated, so ``T`` is an estimate for data like this; before it is used
    elsewhere it should be fitted on validation images.

    Args:
        logits: ``(n, K)`` in the order of the data set.
        labels: ``(n,)`` int64.

    Returns:
        The fit, or None for fewer than two images.
    """
    if len(labels) < 2:
        return None
    temperature = fit_temperature(logits[0::2], labels[0::2])
    held_out, truth = logits[1::2], labels[1::2]
    ece_before, loss_before = _ece_and_loss(held_out, truth, 1.0)
    ece_after, loss_after = _ece_and_loss(held_out, truth, temperature)
    return TemperatureFit(
        temperature=temperature,
        at_limit=not TEMPERATURE_LIMITS[0] * 1.001 < temperature < TEMPERATURE_LIMITS[1] / 1.001,
        num_fit=len(labels) - len(truth),
        num_measured=len(truth),
        ece_before=ece_before,
        ece_after=ece_after,
        loss_before=loss_before,
        loss_after=loss_after,
    )


def _ece_and_loss(logits: Tensor, labels: Tensor, temperature: float) -> tuple[float, float]:
    confidence, correct, loss = [], [], 0.0
    for z, y in _chunks(logits, labels):
        log_p = (z / temperature).log_softmax(dim=1)
        top, pred = log_p.max(dim=1)
        confidence.append(top.exp())
        correct.append(pred == y)
        loss -= float(log_p.gather(1, y[:, None]).sum())
    bins = reliability_bins(torch.cat(confidence).numpy(), torch.cat(correct).numpy())
    return expected_calibration_error(bins), loss / len(labels)


def _chunks(logits: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows in float64, a bounded number at a time, their maximum moved to 0."""
    size = max(1, _CHUNK // logits.shape[1])
    for start in range(0, len(labels), size):
        z64, y = logits[start : start + size].double(), labels[start : start + size]
        # Classes masked with -inf keep probability 0, but 0 * -inf must not become NaN.
        yield (z64 - z64.amax(dim=1, keepdim=True)).clamp_min(-1e4), y
