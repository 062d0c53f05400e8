"""The catalogue of published segmentation networks: ConvNeXt's files of table 4.

Source: README of facebookresearch/ConvNeXt, semantic_segmentation; ConvNeXt table 4. No
segmentation network of V2 was published.
"""

from dataclasses import dataclass

from convnext.models.upernet import segmenter_config
from convnext.weights.catalogue_rows import PREFIX
from convnext.weights.preprocessing import SegmenterPreprocessing
from convnext.weights.systems.catalogue import Catalogue, SystemWeights
from convnext.weights.systems.kinds import SEGMENTER

__all__ = [
    "SEGMENTER_CATALOGUE",
    "SegmenterWeights",
    "default_segmenter_tag",
    "find_segmenter",
    "list_segmenter_weights",
    "segmenter_tags",
]


@dataclass(frozen=True, kw_only=True)
class SegmenterWeights(SystemWeights):
    """One published checkpoint of a segmentation network, trained on ADE20K for 160,000 steps.

    Attributes:
        model: name of the network.
        tag: name of the weights, unique for a network.
        url: address of the file.
        data: what it was trained on, in order.
        licence: licence of the weights.
        crop_size: side of the training crops and of the windows of evaluation, in pixels.
        miou: published mIoU on ADE20K's validation set at one scale, in percent.
        miou_multi_scale: likewise of six scales with flips; the one in table 4.
    """

    crop_size: int
    miou: float
    miou_multi_scale: float

    @property
    def preprocessing(self) -> SegmenterPreprocessing:
        """Published evaluation at one scale: windows that overlap by a third."""
        side = self.crop_size
        return SegmenterPreprocessing(
            min_size=side, max_size=4 * side, window=side, stride=side * 2 // 3
        )


# Network, classes of the pre-training, crop, mIoU at one scale, at several.
_ROWS = (
    ("upernet_convnext_tiny", "1k", 512, 46.0, 46.7),
    ("upernet_convnext_small", "1k", 512, 48.7, 49.6),
    ("upernet_convnext_base", "1k", 512, 49.1, 49.9),
    ("upernet_convnext_base", "22k", 640, 52.6, 53.1),
    ("upernet_convnext_large", "22k", 640, 53.2, 53.7),
    ("upernet_convnext_xlarge", "22k", 640, 53.6, 54.0),
)
SEGMENTER_CATALOGUE = Catalogue(
    SEGMENTER,
    [
        SegmenterWeights(
            model=model,
            tag=f"in{data}_ade20k",
            url=f"{PREFIX}ade20k/{model}_{data}_{crop}x{crop}.pth",
            data=f"IN-{data.upper()}, ADE20K",
            crop_size=crop,
            miou=miou,
            miou_multi_scale=multi,
        )
        for model, data, crop, miou, multi in _ROWS
    ],
    segmenter_config,
)
list_segmenter_weights = SEGMENTER_CATALOGUE.matching
segmenter_tags = SEGMENTER_CATALOGUE.tags
default_segmenter_tag = SEGMENTER_CATALOGUE.default_tag
find_segmenter = SEGMENTER_CATALOGUE.find
