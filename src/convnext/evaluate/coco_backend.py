"""Counting after the COCO protocol: by faster-coco-eval where installed, else by pycocotools."""

import importlib.util
import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from convnext.evaluate.coco_result import CocoAP, Floats, PRCurves

__all__ = ["Backend", "Counted", "choose_backend", "count"]

Backend = Literal["auto", "pycocotools", "faster-coco-eval"]
ALL, SMALL, MEDIUM, LARGE = range(4)  # ranges of area
ONE, TEN, HUNDRED = range(3)  # limits on detections
IOU_50, IOU_75 = 0, 5  # among .50, .55, ... .95


def choose_backend(backend: Backend) -> str:
    """The package that counts; "auto" takes the faster one where it is installed.

    Raises:
        ValueError: The one asked for is not installed, or there is no such choice.
    """
    if backend not in ("auto", "pycocotools", "faster-coco-eval"):
        raise ValueError(f"no backend {backend!r}: auto, pycocotools or faster-coco-eval")
    fast = importlib.util.find_spec("faster_coco_eval") is not None
    if backend == "auto":
        return "faster-coco-eval" if fast else "pycocotools"
    if backend == "faster-coco-eval" and not fast:
        raise ValueError(
            "faster-coco-eval is not installed: pip install 'convnext[coco]', or count with "
            "pycocotools (equal numbers, slower)"
        )
    return backend


@dataclass(frozen=True, kw_only=True)
class Counted:
    """Precision and recall as the COCO code counts them; -1 where there is nothing to find.

    Attributes:
        precision: ``(10, 101, K, 4, 3)``: IoU, recall, class, range of area, limit on detections.
        recall: ``(10, K, 4, 3)``.
        scores: As ``precision``: the confidence at which a recall is reached.
    """

    precision: Floats
    recall: Floats
    scores: Floats

    def summary(self, label: int | None = None) -> CocoAP:
        """The twelve numbers, of one class or as means over all that have objects."""
        ap, ar = partial(self._precision, label), partial(self._recall, label)
        return CocoAP(
            AP=ap(),
            AP50=ap(iou=IOU_50),
            AP75=ap(iou=IOU_75),
            APs=ap(area=SMALL),
            APm=ap(area=MEDIUM),
            APl=ap(area=LARGE),
            AR1=ar(most=ONE),
            AR10=ar(most=TEN),
            AR100=ar(),
            ARs=ar(area=SMALL),
            ARm=ar(area=MEDIUM),
            ARl=ar(area=LARGE),
        )

    def curves(self) -> PRCurves:
        """Precision over recall at IoU .5 and .75, all sizes, at most 100 detections."""
        chosen = self.precision[[IOU_50, IOU_75], :, :, ALL, HUNDRED].transpose(0, 2, 1)
        scores = self.scores[[IOU_50, IOU_75], :, :, ALL, HUNDRED].transpose(0, 2, 1)
        absent = chosen < 0
        return PRCurves(
            precision=np.where(absent, np.nan, chosen), scores=np.where(absent, np.nan, scores)
        )

    def _precision(
        self, label: int | None, *, iou: int | None = None, area: int = ALL
    ) -> float | None:
        values = self.precision if iou is None else self.precision[iou : iou + 1]
        values = values if label is None else values[:, :, label : label + 1]
        return _percent(values[:, :, :, area, HUNDRED])

    def _recall(self, label: int | None, *, area: int = ALL, most: int = HUNDRED) -> float | None:
        values = self.recall if label is None else self.recall[:, label : label + 1]
        return _percent(values[:, :, area, most])


def _percent(values: Floats) -> float | None:
    """Mean of what exists: a class without objects is -1 and takes no part."""
    found = values[values > -1]
    return 100 * float(found.mean()) if found.size else None


def count(
    kind: Literal["bbox", "segm"],
    ground_truth: dict[str, Any],
    detections: Sequence[dict[str, Any]],
    backend: str,
) -> Counted:
    """Match detections with objects and count.

    Args:
        kind: Boxes or masks.
        ground_truth: ``images``, ``categories`` and ``annotations`` in COCO form; annotations have
            ids from 1, ``area``, ``iscrowd``, and ``bbox`` or an encoded ``segmentation``. The
            counting code writes into them.
        detections: Likewise, with ``score``.
        backend: What `choose_backend` says.
    """
    packages = {"pycocotools": _pycocotools, "faster-coco-eval": _faster}
    # pycocotools prints its progress; a user's terminal and JSON on stdout stay clean.
    with redirect_stdout(io.StringIO()):
        counted = packages[backend](kind, ground_truth, {**ground_truth, "annotations": detections})
    return Counted(
        precision=np.asarray(counted["precision"], dtype=np.float64),
        recall=np.asarray(counted["recall"], dtype=np.float64),
        scores=np.asarray(counted["scores"], dtype=np.float64),
    )


def _pycocotools(kind: str, truth: dict[str, Any], detections: dict[str, Any]) -> dict[str, Any]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    sets = []
    for content in (truth, detections):
        # Not `loadRes`, which fails on an empty list and takes boxes for masks.
        indexed = COCO()
        indexed.dataset = content
        indexed.createIndex()
        sets.append(indexed)
    run = COCOeval(*sets, kind)
    run.evaluate()
    run.accumulate()
    counted: dict[str, Any] = run.eval
    return counted


def _faster(kind: str, truth: dict[str, Any], detections: dict[str, Any]) -> dict[str, Any]:
    from faster_coco_eval import COCO, COCOeval_faster

    run = COCOeval_faster(COCO(truth), COCO(detections), kind, rle_iou_max_workers=1)
    run.evaluate()
    run.accumulate()
    counted: dict[str, Any] = run.eval
    return counted
