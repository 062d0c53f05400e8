"""What kind of mistakes a detector makes: missed, doubled, misnamed, badly placed, made up."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["DetectionErrors", "ImageErrors", "find_errors"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
RIGHT, CROWD, DUPLICATE = "right", "in a crowd", "duplicate"
CLASS, PLACE, NOTHING = "wrong class", "badly placed", "nothing there"
FOUND, MISSED = "found", "missed"
DETECTION_VERDICTS = (RIGHT, CLASS, PLACE, DUPLICATE, NOTHING, CROWD)
OBJECT_VERDICTS = (FOUND, CLASS, PLACE, MISSED)
MATCH, TOUCH = 0.5, 0.1  # intersection over union


@dataclass(frozen=True, kw_only=True)
class ImageErrors:
    """Detections and objects of one image with a verdict each.

    Attributes:
        image_id: The image's ``id`` in the ground truth.
        boxes: ``(n, 4)`` x1, y1, x2, y2 in pixels, of the detections above the threshold, the
            surest first.
        labels: ``(n,)`` classes.
        scores: ``(n,)``.
        verdicts: ``n`` of `DETECTION_VERDICTS`.
        positions: ``(n,)`` places of the detections in the list of results.
        true_boxes: ``(m, 4)`` of the objects, crowds left out.
        true_labels: ``(m,)``.
        true_verdicts: ``m`` of `OBJECT_VERDICTS`.
        true_positions: ``(m,)`` places of the objects in the list of annotations.
    """

    image_id: int
    boxes: Floats
    labels: Ints
    scores: Floats
    verdicts: tuple[str, ...]
    positions: Ints
    true_boxes: Floats
    true_labels: Ints
    true_verdicts: tuple[str, ...]
    true_positions: Ints

    @property
    def num_errors(self) -> int:
        """Objects that were not found and detections that are not right."""
        lost = sum(verdict != FOUND for verdict in self.true_verdicts)
        return lost + sum(verdict not in (RIGHT, CROWD) for verdict in self.verdicts)


@dataclass(frozen=True, kw_only=True)
class DetectionErrors:
    """Mistakes over a set, by boxes, counting detections from a score threshold on.

    A detection is right where it is the surest of its class to cover an object with IoU >= .5.
    Else it lies in a crowd of its class (and counts neither way), is a duplicate (IoU >= .5 with
    an object of its class that a surer one has taken), of the wrong class (IoU >= .5 with an
    object of another class), badly placed (IoU .1 to .5 with an object of its class), or there is
    nothing. An object is found, or known under a wrong class, or badly placed, or missed.

    Attributes:
        threshold: Least score of the detections that count.
        best: Whether it is the threshold with the best F1, not one that was asked for.
        detections: Number of detections by verdict, in the order of `DETECTION_VERDICTS`.
        objects: Number of objects by verdict, in the order of `OBJECT_VERDICTS`.
        confused: Pairs of classes (true, said, count), the most frequent first.
        worst: The images with most errors, worst first; those without any left out.
    """

    threshold: float
    best: bool
    detections: Mapping[str, int]
    objects: Mapping[str, int]
    confused: tuple[tuple[int, int, int], ...]
    worst: tuple[ImageErrors, ...] = field(repr=False)

    @property
    def precision(self) -> float | None:
        """Share of right detections, 0..1; None without detections."""
        total = sum(n for verdict, n in self.detections.items() if verdict != CROWD)
        return self.detections[RIGHT] / total if total else None

    @property
    def recall(self) -> float | None:
        """Share of objects that were found, 0..1; None without objects."""
        total = sum(self.objects.values())
        return self.objects[FOUND] / total if total else None

    def to_json(self) -> dict[str, Any]:
        """Everything but the boxes as JSON values."""
        return {
            "threshold": self.threshold,
            "precision": self.precision,
            "recall": self.recall,
            "detections": dict(self.detections),
            "objects": dict(self.objects),
            "confused": [list(pair) for pair in self.confused],
            "worst": [[image.image_id, image.num_errors] for image in self.worst],
        }


def find_errors(
    ground_truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    *,
    threshold: float | None = None,
    num_worst: int = 24,
) -> DetectionErrors:
    """Give each detection and each object a verdict.

    Args:
        ground_truth: The set in COCO form.
        results: Detections of boxes in COCO form, such as `DetectionResult.results`.
        threshold: Least score of detections that count; None takes the one with the best
            ``F1 = 2 right / (detections + objects)`` over the set, which is where somebody who
            uses the detector would put it.
        num_worst: Images that are kept.
    """
    sets = _by_image(ground_truth, results)
    for image in sets:
        image.match()
    best = threshold is None
    if threshold is None:
        threshold = _best_threshold(sets)
    judged = [image.judge(threshold) for image in sets]
    said = Counter(verdict for image in judged for verdict in image.verdicts)
    there = Counter(verdict for image in judged for verdict in image.true_verdicts)
    confused = Counter(pair for image in sets for pair in image.confused)
    pairs = sorted(confused.items(), key=lambda item: (-item[1], item[0]))
    wrong = sorted((image for image in judged if image.num_errors), key=lambda i: -i.num_errors)
    return DetectionErrors(
        threshold=threshold,
        best=best,
        detections={verdict: said[verdict] for verdict in DETECTION_VERDICTS},
        objects={verdict: there[verdict] for verdict in OBJECT_VERDICTS},
        confused=tuple((true, label, n) for (true, label), n in pairs),
        worst=tuple(wrong[:num_worst]),
    )


def _by_image(
    truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]
) -> list["_ImageMatches"]:
    """Objects and detections of each image, in the order of the images."""
    labels = {c: k for k, c in enumerate(sorted(int(c["id"]) for c in truth["categories"]))}
    objects: dict[int, list[int]] = {int(image["id"]): [] for image in truth["images"]}
    said: dict[int, list[int]] = {image: [] for image in objects}
    annotations = truth["annotations"]
    for position, entry in enumerate(annotations):
        objects[int(entry["image_id"])].append(position)
    for position, result in enumerate(results):
        said[int(result["image_id"])].append(position)
    return [
        _ImageMatches(
            image_id=image,
            objects=_Boxes.of([annotations[i] for i in objects[image]], objects[image], labels),
            said=_Boxes.of([results[i] for i in said[image]], said[image], labels),
        )
        for image in objects
    ]


@dataclass(kw_only=True)
class _Boxes:
    """Boxes of one image as arrays, ``n`` rows each."""

    boxes: Floats
    labels: Ints
    scores: Floats
    crowd: npt.NDArray[np.bool_]
    positions: Ints

    @classmethod
    def of(
        cls,
        entries: Sequence[Mapping[str, Any]],
        positions: Sequence[int],
        labels: Mapping[int, int],
    ) -> "_Boxes":
        boxes = np.array([entry["bbox"] for entry in entries], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return cls(
            boxes=boxes,
            labels=np.array([labels[int(e["category_id"])] for e in entries], dtype=np.int64),
            scores=np.array([e.get("score", 1.0) for e in entries], dtype=np.float64),
            crowd=np.array([bool(e.get("iscrowd")) for e in entries], dtype=np.bool_),
            positions=np.array(positions, dtype=np.int64),
        )

    def chosen(self, rows: npt.NDArray[Any]) -> "_Boxes":
        return _Boxes(
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            scores=self.scores[rows],
            crowd=self.crowd[rows],
            positions=self.positions[rows],
        )


class _ImageMatches:
    """Who takes whom in one image; the surest first, so a higher threshold changes no match."""

    def __init__(self, *, image_id: int, objects: _Boxes, said: _Boxes) -> None:
        self.image_id = image_id
        self.crowds = objects.chosen(objects.crowd)
        self.objects = objects.chosen(~objects.crowd)
        self.said = said.chosen(np.argsort(-said.scores, kind="stable"))
        self.confused: list[tuple[int, int]] = []

    def match(self) -> None:
        """Set ``iou`` and ``same`` (n, m), ``taken`` (n,): object or -1, and ``crowded`` (n,)."""
        said, objects, crowds = self.said, self.objects, self.crowds
        inter, area, other = _overlap(said.boxes, objects.boxes)
        self.iou = _ratio(inter, area[:, None] + other - inter)
        self.same = said.labels[:, None] == objects.labels
        self.taken = np.full(len(said.scores), -1)
        free = np.ones(len(objects.scores), dtype=np.bool_)
        close = np.where(self.same & (self.iou >= MATCH), self.iou, 0.0)
        for row in np.flatnonzero(close.any(axis=1)):
            choice = np.where(free, close[row], 0.0)
            if choice.any():
                self.taken[row] = choice.argmax()
                free[self.taken[row]] = False
        inter, area, _ = _overlap(said.boxes, crowds.boxes)
        inside = _ratio(inter, np.broadcast_to(area[:, None], inter.shape)) >= MATCH
        self.crowded = (inside & (said.labels[:, None] == crowds.labels)).any(axis=1)
        self.crowded &= self.taken < 0

    def judge(self, threshold: float) -> ImageErrors:
        """Verdicts on the detections from a score on, and on the objects."""
        n, m = int((self.said.scores >= threshold).sum()), len(self.objects.scores)
        iou, same, taken = self.iou[:n], self.same[:n], self.taken[:n]
        said, objects = self.said.chosen(np.arange(n)), self.objects
        cases = {
            RIGHT: taken >= 0,
            CROWD: self.crowded[:n],
            DUPLICATE: (same & (iou >= MATCH)).any(axis=1),
            CLASS: (~same & (iou >= MATCH)).any(axis=1),
            PLACE: (same & (iou >= TOUCH)).any(axis=1),
        }
        verdicts = np.select(list(cases.values()), list(cases), NOTHING)
        misnamed = (verdicts == CLASS)[:, None] & ~same & (iou >= MATCH)  # (n, m)
        misplaced = (verdicts == PLACE)[:, None] & same & (iou >= TOUCH)
        found = np.isin(np.arange(m), taken)
        true = np.select(
            [found, misnamed.any(axis=0), misplaced.any(axis=0)], [FOUND, CLASS, PLACE], MISSED
        )
        for row in np.flatnonzero(verdicts == CLASS):
            best = np.where(misnamed[row], iou[row], 0.0).argmax()
            self.confused.append((int(objects.labels[best]), int(said.labels[row])))
        return ImageErrors(
            image_id=self.image_id,
            boxes=said.boxes,
            labels=said.labels,
            scores=said.scores,
            verdicts=tuple(verdicts.tolist()),
            positions=said.positions,
            true_boxes=objects.boxes,
            true_labels=objects.labels,
            true_verdicts=tuple(true.tolist()),
            true_positions=objects.positions,
        )


def _overlap(one: Floats, other: Floats) -> tuple[Floats, Floats, Floats]:
    """Intersections (n, m), and the areas (n,) and (m,)."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    inter: Floats = np.clip(high - low, 0, None).prod(axis=2)
    return inter, (one[:, 2:] - one[:, :2]).prod(axis=1), (other[:, 2:] - other[:, :2]).prod(axis=1)


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _best_threshold(sets: Sequence[_ImageMatches]) -> float:
    """The score from which on F1 at IoU .5 is best; 0.5 where nothing is right."""
    scores = np.concatenate([np.empty(0), *(s.said.scores[~s.crowded] for s in sets)])
    right = np.concatenate([np.empty(0), *((s.taken >= 0)[~s.crowded] for s in sets)])
    if not right.any():
        return 0.5
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], right[order].cumsum()
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + sum(len(s.objects.scores) for s in sets))
    last = np.append(scores[1:] < scores[:-1], True)  # equal scores stand or fall together
    return float(scores[np.where(last, f1, 0.0).argmax()])
