"""How well a score separates two classes: area under the ROC curve and average precision."""

from typing import Any

import numpy as np
import numpy.typing as npt


def roc_auc(score: npt.NDArray[np.floating[Any]], positive: npt.NDArray[np.bool_]) -> float | None:
    """Area under the ROC curve, the chance that a positive scores above a negative.

    ``AUC = P(s+ > s-) + P(s+ = s-) / 2`` over all pairs (the Mann-Whitney statistic).

    Args:
        score: ``(n,)``; any monotone score of the positive class.
        positive: ``(n,)`` truth.

    Returns:
        A value in 0..1, or None when one of the two classes has no image.

    Source: Hanley and McNeil, "The meaning and use of the area under a ROC curve", 1982.
    """
    num_positive = int(positive.sum())
    num_negative = len(positive) - num_positive
    if num_positive == 0 or num_negative == 0:
        return None
    _, group, size = np.unique(score, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(size) - (size - 1) / 2  # ties share the mean of their ranks, from 1
    rank_sum = float(mean_rank[group][positive].sum())
    return (rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative)


def average_precision(
    score: npt.NDArray[np.floating[Any]], positive: npt.NDArray[np.bool_]
) -> float | None:
    """Average precision, the step-wise area under the precision-recall curve.

    ``AP = sum_n (R_n - R_{n-1}) P_n`` over the distinct thresholds, highest first.

    Args:
        score: ``(n,)``; any monotone score of the positive class.
        positive: ``(n,)`` truth.

    Returns:
        A value in 0..1, or None when there is no positive image.
    """
    num_positive = int(positive.sum())
    if num_positive == 0:
        return None
    order = np.argsort(-score, kind="stable")
    last_of_tie = np.append(np.diff(score[order]) != 0, True)
    hits = np.cumsum(positive[order])[last_of_tie]
    shown = (np.arange(len(order)) + 1)[last_of_tie]
    gained = np.diff(hits, prepend=0)
    return float(np.sum(gained * hits / shown) / num_positive)
