"""The catalogue of published detectors: ConvNeXt's files of table 3.

Source: README of facebookresearch/ConvNeXt, object_detection; ConvNeXt table 3. No detector of V2
was published.
"""

from dataclasses import dataclass

from convnext.weights.catalogue_rows import PREFIX
from convnext.weights.preprocessing import DetectorPreprocessing
from convnext.weights.systems.catalogue import Catalogue, SystemWeights
from convnext.weights.systems.kinds import DETECTOR

__all__ = [
    "DETECTOR_CATALOGUE",
    "DetectorWeights",
    "default_detector_tag",
    "detector_tags",
    "find_detector",
    "list_detector_weights",
]


@dataclass(frozen=True, kw_only=True)
class DetectorWeights(SystemWeights):
    """One published checkpoint of a detector, trained on COCO 2017 for 36 epochs.

    Attributes:
        model: name of the detector.
        tag: name of the weights, unique for a detector.
        url: address of the file.
        data: what it was trained on, in order.
        licence: licence of the weights.
        box_ap: published AP of boxes on COCO's validation set, in percent.
        mask_ap: likewise of masks.
    """

    box_ap: float
    mask_ap: float

    @property
    def preprocessing(self) -> DetectorPreprocessing:
        """Published evaluation: short side 800, long side at most 1333."""
        return DetectorPreprocessing()


def _check(model: str) -> None:
    """Refuse a name that is no detector's."""
    from convnext.models.mask_rcnn import detector_config  # and torchvision with it

    detector_config(model)


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
DETECTOR_CATALOGUE = Catalogue(
    DETECTOR,
    [
        DetectorWeights(
            model=model,
            tag=f"in{data}_coco",
            url=f"{PREFIX}coco/{model}_{data}_3x.pth",
            data=f"IN-{data.upper()}, COCO",
            box_ap=box_ap,
            mask_ap=mask_ap,
        )
        for model, data, box_ap, mask_ap in _ROWS
    ],
    _check,
)
list_detector_weights = DETECTOR_CATALOGUE.matching
detector_tags = DETECTOR_CATALOGUE.tags
default_detector_tag = DETECTOR_CATALOGUE.default_tag
find_detector = DETECTOR_CATALOGUE.find
