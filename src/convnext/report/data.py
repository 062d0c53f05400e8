"""What a report shows. Everything but title, date and either scores or history may be missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from PIL import Image

from convnext.evaluate.coco_result import DetectionResult
from convnext.evaluate.detection_errors import DetectionErrors
from convnext.evaluate.result import ClassificationResult
from convnext.evaluate.segmentation_result import SegmentationResult

THUMBNAIL = 256


@dataclass(frozen=True, kw_only=True)
class Example:
    """One image of a gallery.

    Attributes:
        name: File name or other name of the image, shown as it is.
        true: Name of the true class.
        pred: Name of the predicted class.
        confidence: Probability of the predicted class, 0..1.
        image: The picture as the network saw it, as PNG, JPEG or WebP bytes.
        cam: The same picture under its class activation map; empty = none.
    """

    name: str
    true: str
    pred: str
    confidence: float
    image: bytes = field(repr=False)
    cam: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, kw_only=True)
class DetectionExample:
    """One image of a gallery of detections; `detection_example` draws it.

    Attributes:
        name: File name or other name of the image, shown as it is.
        errors: What is wrong in it, number by kind: "missed", "duplicate", ...
        truth: The picture with the objects that are there, as PNG, JPEG or WebP bytes.
        said: The picture with the detections.
    """

    name: str
    errors: Mapping[str, int]
    truth: bytes = field(repr=False)
    said: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class SegmentationExample:
    """One image of a gallery of segmentations; `segmentation_example` draws it.

    Attributes:
        name: File name or other name of the image, shown as it is.
        miou: Its mIoU in percent over the classes that are there or were said.
        accuracy: Percent of its pixels that are right.
        classes: Name, colour and IoU in percent of these classes, those of most pixels first.
        picture: The picture, as PNG, JPEG or WebP bytes.
        truth: The classes that are there over the picture.
        said: The classes that were said over the picture.
    """

    name: str
    miou: float | None
    accuracy: float | None
    classes: Sequence[tuple[str, tuple[int, int, int], float]]
    picture: bytes = field(repr=False)
    truth: bytes = field(repr=False)
    said: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Content of one report; only what is given is shown.

    Attributes:
        title: Headline, such as the name of the run.
        created: Date and time, as text.
        result: Scores, or None when nothing was evaluated.
        detection: Scores of a detector.
        errors: Its mistakes by kind.
        segmentation: Scores of a segmenter.
        split: What the scores were measured on, such as "test" or "validation".
        description: What was done, in a few plain words.
        history: Lines of ``metrics.jsonl``: ``kind`` "train" (``step``, ``loss``, ``lr``) and
            "eval" (``step``, ``top1``, ``loss``, ``weights``). Of a detector: parts of the loss
            whose names hold ``loss_``, and ``ap``, ``ap50``, ``mask_ap``. Of a segmenter likewise,
            and ``miou``, ``mean_accuracy``, ``pixel_accuracy``.
        mistakes: Gallery of wrong predictions, most confident first.
        correct: Gallery of right predictions.
        detections: Gallery of the images with most errors of a detector, worst first.
        segments: Gallery of the images of lowest mIoU of a segmenter, worst first.
        pictures: Further pictures with a caption each, as PNG, JPEG or WebP bytes.
        facts: Short facts by name: network, data, device, seed, ...
        command: The command that made the run.
        cost: `convnext.evaluate.cost.Cost.to_json()` and ``train_seconds``, as far as known.
        recipe: The resolved recipe, nested mappings of plain values.
        versions: Version by name of package.
    """

    title: str
    created: str
    result: ClassificationResult | None = None
    detection: DetectionResult | None = None
    errors: DetectionErrors | None = None
    segmentation: SegmentationResult | None = None
    split: str = "validation"
    description: str = ""
    history: Sequence[Mapping[str, Any]] = ()
    mistakes: Sequence[Example] = ()
    correct: Sequence[Example] = ()
    detections: Sequence[DetectionExample] = ()
    segments: Sequence[SegmentationExample] = ()
    pictures: Sequence[tuple[str, bytes]] = field(default=(), repr=False)
    facts: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    cost: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


def thumbnail(image: Image.Image) -> bytes:
    """A picture for a gallery: JPEG, at most 256 pixels wide and high."""
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = BytesIO()
    small.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()
