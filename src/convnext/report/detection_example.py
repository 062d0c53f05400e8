"""One image of the gallery of errors: what is there, and what the network said."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from convnext.evaluate.coco_masks import decode_mask, encode_truth
from convnext.evaluate.detection_errors import CROWD, FOUND, RIGHT, ImageErrors
from convnext.report.data import DetectionExample
from convnext.report.drawing import draw_detections
from convnext.report.labels import Colour

__all__ = ["detection_example"]

LONGER_SIDE = 640
VEIL = 0.15  # of masks: what lies below an error shows why it was made
GOOD, BAD, NEITHER = (46, 140, 255), (255, 96, 48), (160, 160, 160)


def detection_example(
    picture: Image.Image,
    image: ImageErrors,
    class_names: Sequence[str],
    *,
    name: str,
    annotations: Sequence[Mapping[str, Any]] | None = None,
    mask_results: Sequence[Mapping[str, Any]] | None = None,
) -> DetectionExample:
    """Draw an image twice: its objects with their fate, its detections with their verdicts.

    Args:
        picture: The whole image, upright, of the size that the ground truth says.
        image: What `find_errors` found in it.
        class_names: Names in the order of the labels.
        name: What the gallery calls the image.
        annotations: The ``annotations`` of the ground truth, to draw the masks of objects.
        mask_results: `DetectionResult.mask_results`, to draw the masks of detections.
    """
    size = picture.size
    factor = min(1.0, LONGER_SIDE / max(size))
    small = picture.convert("RGB")
    if factor < 1:
        new = (max(1, round(size[0] * factor)), max(1, round(size[1] * factor)))
        small = small.resize(new, Image.Resampling.LANCZOS)
    scale = np.array([small.width / size[0], small.height / size[1]] * 2)

    def drawn(
        boxes: npt.NDArray[np.float64],
        texts: Sequence[str],
        colours: Sequence[Colour],
        masks: Iterable[npt.NDArray[np.bool_]] | None,
    ) -> bytes:
        fitting = None if masks is None else (_fitted(mask, small.size) for mask in masks)
        whole = draw_detections(
            small, boxes * scale, texts, None, fitting, colours=colours, veil=VEIL
        )
        buffer = BytesIO()
        whole.save(buffer, "JPEG", quality=85)
        return buffer.getvalue()

    true_masks, masks = None, None
    if annotations is not None:
        found = (annotations[i]["segmentation"] for i in image.true_positions)
        true_masks = (decode_mask(encode_truth(s, (size[1], size[0]), name)) for s in found)
    if mask_results is not None:
        masks = (decode_mask(mask_results[i]["segmentation"]) for i in image.positions)
    true_texts = [
        class_names[label] + ("" if verdict == FOUND else f", {verdict}")
        for label, verdict in zip(image.true_labels, image.true_verdicts, strict=True)
    ]
    texts = [
        f"{class_names[label]} {score:.2f}" + ("" if verdict == RIGHT else f", {verdict}")
        for label, score, verdict in zip(image.labels, image.scores, image.verdicts, strict=True)
    ]
    true_colours = [GOOD if verdict == FOUND else BAD for verdict in image.true_verdicts]
    colours = [{RIGHT: GOOD, CROWD: NEITHER}.get(verdict, BAD) for verdict in image.verdicts]
    return DetectionExample(
        name=name,
        errors=_errors(image),
        truth=drawn(image.true_boxes, true_texts, true_colours, true_masks),
        said=drawn(image.boxes, texts, colours, masks),
    )


def _errors(image: ImageErrors) -> dict[str, int]:
    """Number of lost objects and of wrong detections by kind."""
    lost = Counter(f"object {v}" if v != "missed" else v for v in image.true_verdicts if v != FOUND)
    wrong = Counter(v for v in image.verdicts if v not in (RIGHT, CROWD))
    return {"missed": lost["missed"], **wrong}


def _fitted(mask: npt.NDArray[np.bool_], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """A mask in the size of a smaller picture."""
    if mask.shape == (size[1], size[0]):
        return mask
    resized = Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)
    return np.asarray(resized, dtype=np.bool_)
