"""Segmentation networks as a kind of system: what their weights have that others have not."""

from convnext.models.registry import is_segmenter_name
from convnext.models.upernet import SEGMENTERS, UPerNet, UPerNetConfig, segmenter_config
from convnext.weights.labels import ade20k_labels
from convnext.weights.preprocessing import SegmenterPreprocessing
from convnext.weights.segmentation.architecture import describe, infer_segmenter
from convnext.weights.segmentation.elsewhere import FOLDERS, check_layout, read_elsewhere
from convnext.weights.segmentation.heads import SEGMENTER_NAMES
from convnext.weights.systems.kinds import SEGMENTER
from convnext.weights.systems.system import OptionalHead, System

__all__ = ["AUXILIARY", "PREDICTORS", "SYSTEM"]

# The layers whose size is the number of classes, as patterns for `allow`.
PREDICTORS = ("decode_head.conv_seg.*", "auxiliary_head.conv_seg.*")
AUXILIARY = "auxiliary_head.*"  # for `allow`, where a file may lack this head

SYSTEM: System[UPerNetConfig, UPerNet, SegmenterPreprocessing] = System(
    kind=SEGMENTER,
    verb="segments",
    network=UPerNet,
    named=segmenter_config,
    known=SEGMENTERS,
    is_name=is_segmenter_name,
    name_of=lambda config: f"upernet_{config.backbone}",
    widths=("head_dim", "pool_scales"),  # the auxiliary head is for training alone
    infer=infer_segmenter,
    preprocessing=SegmenterPreprocessing,
    labels=ade20k_labels,
    names=SEGMENTER_NAMES,
    predictors=PREDICTORS,
    optional=OptionalHead("aux_dim", AUXILIARY, "auxiliary head"),
    describe=describe,
    folders=FOLDERS,
    elsewhere=read_elsewhere,
    check_layout=check_layout,
)
