"""The catalogue of published detectors: ConvNeXt's files of table 3.

Source: README of facebookresearch/ConvNeXt, object_detection; ConvNeXt table 3. No detector of V2
was published.
"""

import fnmatch
from dataclasses import dataclass

from convnext.weights.catalogue_rows import PREFIX

__all__ = [
    "DetectorWeights",
    "default_detector_tag",
    "detector_tags",
    "find_detector",
    "list_detector_weights",
]


@dataclass(frozen=True, kw_only=True)
class DetectorWeights:
    """One published checkpoint of a detector, trained on COCO 2017 for 36 epochs.

    Attributes:
        model: name of the detector.
        tag: name of the weights, unique for a detector.
        url: address of the file.
        data: what it was trained on, in order.
        box_ap: published AP of boxes on COCO's validation set, in percent.
        mask_ap: likewise of masks.
        licence: licence of the weights.
    """

    model: str
    tag: str
    url: str
    data: str
    box_ap: float
    mask_ap: float
    licence: str = "MIT"

    def notice(self) -> str:
        """The licence, as a sentence to show when the weights are loaded."""
        return f"weights {self.model}.{self.tag}: licence {self.licence} (free to use)"


# Detector, classes of the pre-training, box AP, mask AP.
_ROWS = (
    ("mask_rcnn_convnext_tiny", "1k", 46.2, 41.7),
    ("cascade_mask_rcnn_convnext_tiny", "1k", 50.4, 43.7),
    ("cascade_mask_rcnn_convnext_small", "1k", 51.9, 45.0),
    ("cascade_mask_rcnn_convnext_base", "1k", 52.7, 45.6),
    ("cascade_mask_rcnn_convnext_base", "22k", 54.0, 46.9),
    ("cascade_mask_rcnn_convnext_large", "22k", 54.8, 47.6),
    ("cascade_mask_rcnn_convnext_xlarge", "22k", 55.2, 47.7),
)
_CATALOGUE = {
    (model, f"in{data}_coco"): DetectorWeights(
        model=model,
        tag=f"in{data}_coco",
        url=f"{PREFIX}coco/{model}_{data}_3x.pth",
        data=f"IN-{data.upper()}, COCO",
        box_ap=box_ap,
        mask_ap=mask_ap,
    )
    for model, data, box_ap, mask_ap in _ROWS
}


def list_detector_weights(pattern: str = "*") -> list[DetectorWeights]:
    """Published detectors whose ``model.tag`` matches a shell-style pattern, in table order.

    A pattern without a dot matches the detector's name alone.
    """
    pattern = pattern if "." in pattern else f"{pattern}.*"
    return [w for w in _CATALOGUE.values() if fnmatch.fnmatchcase(f"{w.model}.{w.tag}", pattern)]


def detector_tags(model: str) -> list[str]:
    """Tags of the published weights of a detector, the one that ``True`` means first."""
    return [tag for name, tag in _CATALOGUE if name == model]


def default_detector_tag(model: str) -> str:
    """The tag that ``True`` means: pre-trained on ImageNet-1K if there is such a file.

    Raises:
        ValueError: no such detector, or there are no published weights for it.
    """
    known = detector_tags(model)
    if not known:
        from convnext.models.mask_rcnn import detector_config  # and torchvision with it

        detector_config(model)  # an unknown name gets the nearest names
        names = ", ".join(dict.fromkeys(name for name, _ in _CATALOGUE))
        raise ValueError(
            f"there are no published weights for {model}; detectors that have some: {names}. Give "
            "a file, folder or URL, or start from weights of the backbone"
        )
    return known[0]


def find_detector(model: str, tag: str) -> DetectorWeights:
    """The published checkpoint of a detector with this tag.

    Raises:
        ValueError: there is none; the tags that exist are named.
    """
    default_detector_tag(model)
    if (model, tag) not in _CATALOGUE:
        raise ValueError(
            f"{model} has no weights {tag!r}; available: {', '.join(detector_tags(model))}"
        )
    return _CATALOGUE[model, tag]
