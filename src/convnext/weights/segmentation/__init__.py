"""Weights of segmentation networks: their layouts, loading, saving, conversion."""

from convnext.weights.preprocessing import SegmenterPreprocessing
from convnext.weights.segmentation.loading import (
    SegmenterInfo,
    build_segmenter,
    create_segmenter,
    is_segmenter,
    load_segmenter,
    load_segmenter_weights,
)
from convnext.weights.segmentation.saving import save_segmenter
from convnext.weights.segmentation.system import AUXILIARY, PREDICTORS
from convnext.weights.systems.backbone import load_backbone_weights

__all__ = [
    "AUXILIARY",
    "PREDICTORS",
    "SegmenterInfo",
    "SegmenterPreprocessing",
    "build_segmenter",
    "create_segmenter",
    "is_segmenter",
    "load_backbone_weights",
    "load_segmenter",
    "load_segmenter_weights",
    "save_segmenter",
]
