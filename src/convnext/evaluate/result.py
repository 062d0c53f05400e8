"""What an evaluation found, as plain values that a report, a log or a JSON file can take."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_DENSE_CLASSES = 4096
MAX_JSON_CLASSES = 100


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """Scores of one class, in 0..1; None where a ratio would divide by zero."""

    name: str
    count: int
    predicted: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """Predictions whose confidence lies in ``(low, high]``; None where there are none."""

    low: float
    high: float
    count: int
    accuracy: float | None
    confidence: float | None


@dataclass(frozen=True, kw_only=True)
class TemperatureFit:
    """A temperature fitted on ``num_fit`` images, its effect measured on ``num_measured`` others.

    ECE in 0..1, loss in nats; "before" means temperature 1 on the same held-out half.
    ``at_limit`` says that the search ended at the edge of its range, because the images hold too
    few mistakes (or too few right answers) to fit a temperature.
    """

    temperature: float
    at_limit: bool
    num_fit: int
    num_measured: int
    ece_before: float
    ece_after: float
    loss_before: float
    loss_after: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One image: its index in the data set, true and predicted class, confidence in 0..1."""

    index: int
    label: int
    pred: int
    confidence: float


@dataclass(frozen=True, kw_only=True)
class ClassificationResult:
    """Scores of a classifier on one labelled set.

    Percent (0..100): ``top1``, ``top5``, ``top1_interval``, ``balanced_accuracy``,
    ``majority_top1``. Fractions (0..1): precision, recall, F1, ``macro_f1``, ``ece``,
    ``roc_auc``, ``average_precision`` and every confidence. ``loss`` is the mean cross-entropy in
    nats, without label smoothing.

    Attributes:
        k: What "top5" really is: ``min(5, number of classes)``.
        top1_interval: Wilson's 95 % interval of ``top1``.
        balanced_accuracy: Mean recall over the classes that have images.
        macro_f1: Mean F1 over the classes that have images.
        majority_class: Index of the most frequent class of this set.
        majority_top1: Top-1 of always answering that class.
        confusion_pairs: ``(P, 3)`` int64 rows (true, predicted, count), non-zero ones only, sorted.
        roc_auc: Two classes only, with class 1 as the positive one; else None.
        average_precision: As ``roc_auc``.
        worst: The most confident mistakes, most confident first.
        correct: A spread-out, not a chosen, sample of right predictions.
    """

    class_names: tuple[str, ...]
    num_images: int
    k: int
    top1: float
    top1_interval: tuple[float, float]
    top5: float
    loss: float
    balanced_accuracy: float
    macro_f1: float
    majority_class: int
    majority_top1: float
    per_class: tuple[ClassScore, ...]
    confusion_pairs: npt.NDArray[np.int64] = field(repr=False)
    ece: float
    reliability: tuple[ReliabilityBin, ...] = field(repr=False)
    temperature: TemperatureFit | None
    roc_auc: float | None
    average_precision: float | None
    worst: tuple[Prediction, ...] = field(repr=False)
    correct: tuple[Prediction, ...] = field(repr=False)

    @property
    def num_classes(self) -> int:
        """Number of classes, those without an image included."""
        return len(self.class_names)

    @property
    def confusion(self) -> npt.NDArray[np.int64]:
        """Confusion matrix ``(K, K)``: rows are the true class, columns the predicted one.

        Raises:
            ValueError: For more than 4,096 classes; ``confusion_pairs`` has no such limit.
        """
        k = self.num_classes
        if k > MAX_DENSE_CLASSES:
            raise ValueError(
                f"a dense confusion matrix of {k:,} classes is too large "
                f"(limit {MAX_DENSE_CLASSES:,}); use confusion_pairs"
            )
        matrix = np.zeros((k, k), dtype=np.int64)
        matrix[self.confusion_pairs[:, 0], self.confusion_pairs[:, 1]] = self.confusion_pairs[:, 2]
        return matrix

    def most_confused(self, limit: int) -> list[tuple[int, int, int]]:
        """The ``limit`` largest off-diagonal entries (true, predicted, count), largest first."""
        return most_confused(self.confusion_pairs, limit)

    def scalars(self) -> dict[str, float]:
        """The single numbers, for logs; those that do not exist for this set are left out."""
        names = (
            *("num_images", "top1", "top5", "loss", "balanced_accuracy", "macro_f1"),
            *("majority_top1", "ece", "roc_auc", "average_precision"),
        )
        values = {name: getattr(self, name) for name in names}
        return {name: float(value) for name, value in values.items() if value is not None}

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values; the dense ``confusion`` only up to 100 classes."""
        values = {
            key: getattr(self, key)
            for key in self.__dataclass_fields__
            if key not in ("per_class", "reliability", "worst", "correct", "temperature")
        }
        values["confusion_pairs"] = self.confusion_pairs.tolist()
        if self.num_classes <= MAX_JSON_CLASSES:
            values["confusion"] = self.confusion.tolist()
        for key in ("per_class", "reliability", "worst", "correct"):
            values[key] = [asdict(item) for item in getattr(self, key)]
        values["temperature"] = asdict(self.temperature) if self.temperature else None
        # JSON has no infinity: a true class with probability 0 makes the mean loss infinite.
        if not math.isfinite(self.loss):
            values["loss"] = None
        values["class_names"] = list(self.class_names)
        values["top1_interval"] = list(self.top1_interval)
        return values


def most_confused(pairs: npt.NDArray[np.int64], limit: int) -> list[tuple[int, int, int]]:
    """The wrong ones of rows (true, said, count) that count most, largest first."""
    wrong = pairs[pairs[:, 0] != pairs[:, 1]]
    order = np.argsort(-wrong[:, 2], kind="stable")[:limit]
    return [(int(t), int(p), int(n)) for t, p, n in wrong[order]]
