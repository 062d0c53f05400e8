"""Classification metrics, exact for any batch size and any number of processes."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from convnext.evaluate.calibration import (
    expected_calibration_error,
    measure_temperature,
    reliability_bins,
)
from convnext.evaluate.gather import all_gather_rows
from convnext.evaluate.ranking import average_precision, roc_auc
from convnext.evaluate.result import ClassificationResult, ClassScore, Prediction

NUM_EXAMPLES = 24
MAX_KEPT_LOGITS = 2**26  # float32 values, 256 MB


class ClassificationMetrics:
    """Collects predictions batch by batch; `compute` turns them into a `ClassificationResult`.

    Per image 44 bytes are kept (index, label, prediction, rank of the true class, confidence,
    loss, margin), never the logits of all images. For the temperature the logits of a subset are
    kept, at most 256 MB: all images while they fit, else those whose index falls below a threshold
    under a fixed hash. Results therefore depend on the set of images alone, neither on the order
    and size of batches nor on the number of ranks.

    Args:
        num_classes: ``K >= 2``.
        class_names: ``K`` names; default ``"0" .. "K-1"``.
        calibration: Whether to keep logits for fitting a temperature.

    Raises:
        ValueError: For fewer than two classes or a wrong number of names.
    """

    def __init__(
        self,
        num_classes: int,
        class_names: Sequence[str] | None = None,
        *,
        calibration: bool = True,
    ) -> None:
        if num_classes < 2:
            raise ValueError(f"classification needs at least 2 classes, got {num_classes}")
        names = tuple(str(i) for i in range(num_classes)) if class_names is None else class_names
        if len(names) != num_classes:
            raise ValueError(
                f"{len(names)} class names for {num_classes} classes: the class list of the data "
                "and the outputs of the network differ"
            )
        self.num_classes = num_classes
        self.class_names = tuple(names)
        self._ids: list[Tensor] = []  # (n, 4) int64: index, label, prediction, rank of the truth
        self._values: list[Tensor] = []  # (n, 3) float32: confidence, loss, z_1 - z_0
        self._sample = _LogitSample(MAX_KEPT_LOGITS // num_classes) if calibration else None

    @torch.no_grad()
    def update(self, logits: Tensor, labels: Tensor, index: Tensor) -> None:
        """Add one batch.

        Args:
            logits: ``(n, K)``, any float type and device.
            labels: ``(n,)`` class indices.
            index: ``(n,)`` position in the data set; -1 marks padding, which is dropped.

        Raises:
            ValueError: For logits of another width, labels outside 0..K-1, or NaN logits.
        """
        if logits.ndim != 2 or logits.shape[1] != self.num_classes:
            raise ValueError(
                f"logits of shape {tuple(logits.shape)} do not fit {self.num_classes} classes: "
                "the network's head and the class list differ"
            )
        index, labels = index.cpu().long(), labels.cpu().long()
        real = index >= 0
        index, labels = index[real], labels[real]
        z = logits[real.to(logits.device)].float()
        if (bad := (labels < 0) | (labels >= self.num_classes)).any():
            raise ValueError(
                f"label {int(labels[bad][0])} of image {int(index[bad][0])} is outside "
                f"0..{self.num_classes - 1}; evaluation needs a label for every image"
            )
        y = labels.to(z.device)[:, None]  # (n, 1)
        log_p = z.log_softmax(dim=1)
        pred = z.argmax(dim=1)  # of the logits: rounding in log_p can tie what differs in z
        truth = z.gather(1, y)
        # Equal logits rank by class number, so that constant outputs are not "always right".
        earlier = torch.arange(self.num_classes, device=z.device) < y
        rank = ((z > truth) | ((z == truth) & earlier)).sum(dim=1)
        loss = -log_p.gather(1, y)[:, 0]
        confidence = log_p.gather(1, pred[:, None])[:, 0].exp()
        values = torch.stack([confidence, loss, z[:, 1] - z[:, 0]], dim=1).cpu()
        if (broken := values[:, 0].isnan()).any():
            raise ValueError(
                f"the network answers NaN for image {int(index[broken][0])}: its weights are "
                "broken, or the precision is too low (try fp32)"
            )
        self._ids.append(torch.stack([index, labels, pred.cpu(), rank.cpu()], dim=1))
        self._values.append(values)
        if self._sample is not None:
            self._sample.add(index, labels, z.cpu())

    def compute(self) -> ClassificationResult:
        """All scores over all ranks; a collective call when torch.distributed is initialised.

        Raises:
            ValueError: When no image was evaluated.
        """
        ids = all_gather_rows(torch.cat([torch.empty(0, 4, dtype=torch.int64), *self._ids]))
        values = all_gather_rows(torch.cat([torch.empty(0, 3), *self._values]))
        fit = self._sample.gather(self.num_classes) if self._sample is not None else None
        if len(ids) == 0:
            raise ValueError("nothing to evaluate: the set holds no labelled image")
        order = ids[:, 0].argsort()
        index, label, pred, rank = ids[order].numpy().T
        confidence, loss, margin = values[order].numpy().T
        assert (np.diff(index) > 0).all(), "an image was evaluated twice"

        k = self.num_classes
        codes, counts = np.unique(label * k + pred, return_counts=True)
        pairs = np.stack([codes // k, codes % k, counts], axis=1)
        support = np.bincount(label, minlength=k)
        per_class = self._per_class(pairs, support)
        present = [score for score in per_class if score.count]
        bins = reliability_bins(confidence, pred == label)
        majority = int(support.argmax())
        num_right = int((rank == 0).sum())
        binary = k == 2
        return ClassificationResult(
            class_names=self.class_names,
            num_images=len(index),
            k=min(5, k),
            top1=100 * num_right / len(index),
            top1_interval=wilson_interval(num_right, len(index)),
            top5=100 * float((rank < 5).mean()),
            loss=float(loss.mean(dtype=np.float64)),
            balanced_accuracy=100 * float(np.mean([score.recall or 0.0 for score in present])),
            macro_f1=float(np.mean([score.f1 or 0.0 for score in present])),
            majority_class=majority,
            majority_top1=100 * float(support[majority]) / len(index),
            per_class=per_class,
            confusion_pairs=pairs,
            ece=expected_calibration_error(bins),
            reliability=bins,
            temperature=measure_temperature(*fit) if fit is not None else None,
            roc_auc=roc_auc(margin, label == 1) if binary else None,
            average_precision=average_precision(margin, label == 1) if binary else None,
            worst=_examples(index, label, pred, confidence, wrong=True),
            correct=_examples(index, label, pred, confidence, wrong=False),
        )

    def _per_class(
        self, pairs: npt.NDArray[np.int64], support: npt.NDArray[np.int64]
    ) -> tuple[ClassScore, ...]:
        predicted = np.zeros(self.num_classes, dtype=np.int64)
        np.add.at(predicted, pairs[:, 1], pairs[:, 2])
        hits = np.zeros(self.num_classes, dtype=np.int64)
        diagonal = pairs[pairs[:, 0] == pairs[:, 1]]
        hits[diagonal[:, 0]] = diagonal[:, 2]

        def ratio(a: int, b: int) -> float | None:
            return a / b if b else None

        return tuple(
            ClassScore(
                name=name,
                count=count,
                predicted=said,
                precision=ratio(hit, said),
                recall=ratio(hit, count),
                f1=ratio(2 * hit, count + said),
            )
            for name, count, said, hit in zip(
                self.class_names, support.tolist(), predicted.tolist(), hits.tolist(), strict=True
            )
        )


def wilson_interval(hits: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a proportion, in percent.

    ``(p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)`` with ``z = 1.96``.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    z, p = 1.959963984540054, hits / total
    centre = p + z * z / (2 * total)
    spread = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    scale = 100 / (1 + z * z / total)
    return max(0.0, scale * (centre - spread)), min(100.0, scale * (centre + spread))


def index_hash(index: Tensor) -> Tensor:
    """A fixed number in [0, 1) for each index, spread evenly: the fractional part of ``i * phi``.

    Args:
        index: ``(n,)`` int64, not negative.

    Returns:
        ``(n,)`` float64.
    """
    wrapped = index.numpy().astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # phi * 2^64
    return torch.from_numpy((wrapped >> np.uint64(11)).astype(np.float64) / 2**53)


def _examples(
    index: npt.NDArray[np.int64],
    label: npt.NDArray[np.int64],
    pred: npt.NDArray[np.int64],
    confidence: npt.NDArray[np.float32],
    *,
    wrong: bool,
) -> tuple[Prediction, ...]:
    """The most confident mistakes, or an even sample of the right answers in hash order."""
    chosen = np.flatnonzero((pred != label) == wrong)
    key = -confidence[chosen] if wrong else index_hash(torch.from_numpy(index[chosen])).numpy()
    chosen = chosen[np.argsort(key, kind="stable")][:NUM_EXAMPLES]
    return tuple(
        Prediction(
            index=int(index[i]),
            label=int(label[i]),
            pred=int(pred[i]),
            confidence=float(confidence[i]),
        )
        for i in chosen
    )


_Batch = tuple[Tensor, Tensor, Tensor]  # hash (n,), index and label (n, 2), logits (n, K)


class _LogitSample:
    """Logits of at most ``limit`` images, chosen by their indices alone.

    An image is kept while ``hash(index) < threshold``; whenever more than ``limit`` are kept, the
    threshold is halved. The threshold is thus a function of the set of indices, and no rank can
    end below the common one, because it holds a subset of the images.
    """

    def __init__(self, limit: int) -> None:
        self.limit = max(limit, 2)
        self.threshold = 1.0
        self.batches: list[_Batch] = []

    def add(self, index: Tensor, labels: Tensor, logits: Tensor) -> None:
        batch = (index_hash(index), torch.stack([index, labels], dim=1), logits)
        self.batches.append(_below(self.threshold, batch))
        while sum(len(keys) for keys, _, _ in self.batches) > self.limit:
            self.threshold /= 2
            self.batches = [_below(self.threshold, batch) for batch in self.batches]

    def gather(self, num_classes: int) -> tuple[Tensor, Tensor]:
        """Logits ``(n, K)`` and labels ``(n,)`` of all ranks in index order."""
        none = torch.empty(0, dtype=torch.int64)
        empty = (none.double(), none.reshape(0, 2), torch.empty(0, num_classes))
        batches = [empty, *self.batches]
        keys = all_gather_rows(torch.cat([keys for keys, _, _ in batches]))
        own = torch.tensor([self.threshold], dtype=torch.float64)
        threshold = float(all_gather_rows(own).min())
        while int((keys < threshold).sum()) > self.limit:
            threshold /= 2
        batches = [_below(threshold, batch) for batch in batches]
        rows = all_gather_rows(torch.cat([rows for _, rows, _ in batches]))
        logits = all_gather_rows(torch.cat([logits for _, _, logits in batches]))
        order = rows[:, 0].argsort()
        return logits[order], rows[order, 1]


def _below(threshold: float, batch: _Batch) -> _Batch:
    keys, rows, logits = batch
    keep = keys < threshold
    return batch if bool(keep.all()) else (keys[keep], rows[keep], logits[keep])
