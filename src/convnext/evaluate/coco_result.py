"""What an evaluation of a detector found, as plain values for a report, a log or a JSON file."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ClassAP", "CocoAP", "DetectionResult", "PRCurves"]

Floats = npt.NDArray[np.float64]
MAX_JSON_CLASSES = 100


@dataclass(frozen=True, kw_only=True)
class CocoAP:
    """The twelve numbers of the COCO protocol, in percent; None where the set has no such object.

    ``AP`` is the mean over the IoU thresholds .50, .55, ... .95, 101 recall points and the classes
    that have objects; ``AP50`` and ``AP75`` hold one threshold. ``APs``, ``APm``, ``APl`` count
    objects below 32^2, between, and above 96^2 pixels of ``area``. ``AR1``, ``AR10``, ``AR100``
    are the mean recall with at most that many detections for each class and image.

    Source: Lin et al., "Microsoft COCO: common objects in context", and cocodataset.org.
    """

    AP: float | None
    AP50: float | None
    AP75: float | None
    APs: float | None
    APm: float | None
    APl: float | None
    AR1: float | None
    AR10: float | None
    AR100: float | None
    ARs: float | None
    ARm: float | None
    ARl: float | None

    def scalars(self, prefix: str = "") -> dict[str, float]:
        """The numbers that exist, by names in lower case: ``ap``, ``ap50``, ``aps``, ``ar1``..."""
        values = asdict(self).items()
        return {f"{prefix}{name.lower()}": value for name, value in values if value is not None}


@dataclass(frozen=True, kw_only=True)
class ClassAP:
    """Scores of one class.

    Attributes:
        name: The class.
        num_objects: Objects in the set, crowds not counted.
        num_detections: Detections of this class, whatever their score.
        box: Scores of boxes; all None where the set has no object of the class.
        mask: Scores of masks; None when masks were not evaluated.
    """

    name: str
    num_objects: int
    num_detections: int
    box: CocoAP
    mask: CocoAP | None


@dataclass(frozen=True, kw_only=True)
class PRCurves:
    """Precision over recall, interpolated as COCO does: the best precision at this recall or more.

    Attributes:
        precision: ``(2, K, 101)`` in 0..1 at IoU .50 and .75, for each class and the recalls 0,
            .01, ... 1; NaN for classes without objects, 0 for recalls that are not reached.
        scores: ``(2, K, 101)``: the confidence threshold that reaches the recall; NaN likewise.
    """

    precision: Floats = field(repr=False)
    scores: Floats = field(repr=False)

    @property
    def recall(self) -> Floats:
        """``(101,)``: 0, .01, ... 1."""
        return np.linspace(0.0, 1.0, self.precision.shape[-1])

    def mean(self, *, iou: float) -> Floats | None:
        """``(101,)`` mean over the classes that have objects; None where none has.

        Args:
            iou: 0.5 or 0.75.
        """
        rows = self.precision[_threshold(iou)]
        rows = rows[~np.isnan(rows[:, 0])]
        return rows.mean(axis=0) if len(rows) else None

    def of_class(self, label: int, *, iou: float) -> Floats | None:
        """``(101,)`` of one class; None where it has no objects.

        Args:
            label: 0..K-1.
            iou: 0.5 or 0.75.
        """
        row: Floats = self.precision[_threshold(iou), label]
        return None if np.isnan(row[0]) else row


def _threshold(iou: float) -> int:
    assert iou in (0.5, 0.75), "curves are kept at IoU .5 and .75"
    return 0 if iou == 0.5 else 1


@dataclass(frozen=True, kw_only=True)
class DetectionResult:
    """Scores of a detector on one set.

    Attributes:
        class_names: ``K`` names, in the order of the labels.
        num_images: Images of the set, those without objects included.
        num_unseen: Images for which no detections were given; their objects count as missed.
        num_objects: Objects, crowds not counted.
        num_crowds: Crowd regions: detections inside them count neither way.
        num_detections: Detections of all classes and images.
        box: Scores of boxes.
        mask: Scores of masks; None when masks were not evaluated. Small, medium and large are by
            the area of the masks themselves.
        per_class: Scores by class, in the order of the labels.
        box_curves: Precision over recall of boxes.
        mask_curves: The same of masks.
        results: Detections as COCO results: ``image_id``, ``category_id``, ``bbox`` (x, y, width,
            height in pixels), ``score``, ordered by image.
        mask_results: The same detections with ``segmentation`` (compressed RLE) and without
            ``bbox``, which would make readers take the area of the box for that of the mask.
        backend: The package that counted: "pycocotools" or "faster-coco-eval".
    """

    class_names: tuple[str, ...]
    num_images: int
    num_unseen: int
    num_objects: int
    num_crowds: int
    num_detections: int
    box: CocoAP
    mask: CocoAP | None
    per_class: tuple[ClassAP, ...]
    box_curves: PRCurves = field(repr=False)
    mask_curves: PRCurves | None = field(repr=False)
    results: list[dict[str, Any]] = field(repr=False)
    mask_results: list[dict[str, Any]] | None = field(repr=False)
    backend: str

    @property
    def num_classes(self) -> int:
        """Number of classes, those without an object included."""
        return len(self.class_names)

    def scalars(self) -> dict[str, float]:
        """The single numbers, for logs: ``ap``, ``ap50``, ... of boxes, ``mask_ap``, ... of masks.

        Those that do not exist for this set are left out.
        """
        masks = self.mask.scalars("mask_") if self.mask is not None else {}
        return self.box.scalars() | masks

    def to_json(self) -> dict[str, Any]:
        """Everything but the detections as JSON values; curves by class only up to 100 classes."""
        counts = ("num_images", "num_unseen", "num_objects", "num_crowds", "num_detections")
        values: dict[str, Any] = {name: getattr(self, name) for name in counts}
        values["class_names"] = list(self.class_names)
        values["box"] = asdict(self.box)
        values["mask"] = asdict(self.mask) if self.mask is not None else None
        values["per_class"] = [asdict(score) for score in self.per_class]
        values["box_curves"] = self._curves_json(self.box_curves)
        if self.mask_curves is not None:
            values["mask_curves"] = self._curves_json(self.mask_curves)
        return values | {"backend": self.backend}

    def _curves_json(self, curves: PRCurves) -> dict[str, Any]:
        def plain(row: Floats | None) -> list[float] | None:
            return None if row is None else [round(v, 5) for v in row.tolist()]

        values: dict[str, Any] = {
            name: plain(curves.mean(iou=iou)) for name, iou in (("mean_50", 0.5), ("mean_75", 0.75))
        }
        if self.num_classes <= MAX_JSON_CLASSES:
            values["per_class_50"] = [
                plain(curves.of_class(k, iou=0.5)) for k in range(self.num_classes)
            ]
        return values
