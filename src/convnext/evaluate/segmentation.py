"""Metrics of semantic segmentation, exact for any number of processes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from convnext.evaluate.gather import all_gather_rows
from convnext.evaluate.segmentation_result import ImageScore, SegmentationResult, mean

__all__ = ["SegmentationMetrics", "confusion_counts"]

Integers = npt.NDArray[Any]
MAX_CLASSES = 4096  # the matrix then takes 128 MB
CHUNK = 2**18  # pixels at a time, so that what is computed on the way stays in the cache


class SegmentationMetrics:
    """Adds up one confusion matrix over all pixels; `compute` makes a `SegmentationResult` of it.

    Only the matrix and five numbers an image are kept. The scores depend on the set of images
    alone, neither on their order nor on the number of ranks.

    Args:
        class_names: ``K`` names; class ``k`` of a map is the k-th of them.

    Raises:
        ValueError: No class, or more than 4,096.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        if not 1 <= len(class_names) <= MAX_CLASSES:
            raise ValueError(
                f"{len(class_names):,} classes: segmentation is scored for 1 to {MAX_CLASSES:,}, "
                "because every pair of classes is counted"
            )
        self.class_names = tuple(class_names)
        k = len(self.class_names)
        self._confusion = np.zeros((k, k), dtype=np.int64)
        self._counts: list[tuple[int, int, int, int]] = []  # image, pixels, right, ignored
        self._scores: list[float] = []  # mIoU in percent, NaN where no pixel counts

    def update(self, said: Tensor | Integers, truth: Tensor | Integers, image: int) -> None:
        """Add one image.

        Args:
            said: ``(H, W)`` integers 0..K-1.
            truth: ``(H, W)`` integers 0..K-1; pixels with a negative one count for nothing.
            image: Position in the data set; a negative one marks padding, which is dropped.

        Raises:
            ValueError: The maps differ in size, are not of integers, or hold a class out of range.
        """
        if image < 0:
            return
        k = len(self.class_names)
        counts = confusion_counts(_array(said), _array(truth), k, name=f"image {image}")
        own = counts[:k]
        hits = own.diagonal()
        union = own.sum(axis=0) + own.sum(axis=1) - hits
        score = mean(100 * hits[union > 0] / union[union > 0])
        self._confusion += own
        ignored = int(counts[k].sum())
        self._counts.append((image, int(own.sum()), int(hits.sum()), ignored))
        self._scores.append(float("nan") if score is None else score)

    def compute(self) -> SegmentationResult:
        """All scores over all ranks; a collective call when torch.distributed is initialised.

        Raises:
            ValueError: When no image was evaluated.
        """
        rows = torch.tensor(self._counts, dtype=torch.int64).reshape(-1, 4)
        counts = all_gather_rows(rows)
        scores = all_gather_rows(torch.tensor(self._scores, dtype=torch.float64))
        confusion = all_gather_rows(torch.from_numpy(self._confusion)[None]).sum(dim=0)
        if not len(counts):
            raise ValueError("nothing to evaluate: the set holds no image with a mask")
        order = counts[:, 0].argsort()
        counts, scores = counts[order], scores[order]
        assert bool((counts[:, 0].diff() > 0).all()), "an image was evaluated twice"
        return SegmentationResult(
            class_names=self.class_names,
            confusion=confusion.numpy(),
            images=tuple(
                ImageScore(
                    index=index,
                    pixels=pixels,
                    miou=score if pixels else None,
                    accuracy=100 * right / pixels if pixels else None,
                )
                for (index, pixels, right, _), score in zip(
                    counts.tolist(), scores.tolist(), strict=True
                )
            ),
            ignored=int(counts[:, 3].sum()),
        )


def confusion_counts(
    said: Integers, truth: Integers, num_classes: int, *, name: str = "a map"
) -> npt.NDArray[np.int64]:
    """How often each class was said where each class is true.

    Args:
        said: ``(H, W)`` integers 0..K-1.
        truth: ``(H, W)`` integers 0..K-1, or negative where nothing counts.
        num_classes: ``K``.
        name: What the errors call the image.

    Returns:
        ``(K + 1, K)`` int64: rows are true classes, the last one holds pixels that do not count;
        columns are what was said.

    Raises:
        ValueError: The maps differ in size, are not of integers, or hold a class out of range.
    """
    for what, values, low in (("the prediction", said, 0), ("the truth", truth, None)):
        if values.dtype.kind not in "iub":
            raise ValueError(f"{name}: {what} holds {values.dtype}, not integers")
        if values.size and not (low is None or low <= int(values.min())):
            raise ValueError(f"{name}: {what} holds class {int(values.min())}; classes start at 0")
        if values.size and int(values.max()) >= num_classes:
            raise ValueError(
                f"{name}: {what} holds class {int(values.max())}, outside 0..{num_classes - 1}: "
                "the network and the data have different lists of classes"
            )
    if said.shape != truth.shape:
        raise ValueError(
            f"{name}: a prediction of {said.shape} for a truth of {truth.shape} (height, width); "
            "predictions are scored at the size of the original mask"
        )
    flat_said, flat_truth = said.reshape(-1), truth.reshape(-1)
    counts = np.zeros((num_classes + 1) * num_classes, dtype=np.int64)
    step = max(CHUNK, len(counts))
    for start in range(0, len(flat_truth), step):
        codes = flat_truth[start : start + step].astype(np.int64)
        codes[codes < 0] = num_classes
        codes *= num_classes
        codes += flat_said[start : start + step].astype(np.int64, copy=False)
        counts += np.bincount(codes, minlength=len(counts))
    return counts.reshape(num_classes + 1, num_classes)


def _array(values: Tensor | Integers) -> Integers:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else values
