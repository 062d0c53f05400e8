"""Published weights, checkpoint layouts, and networks with weights from anywhere."""

from convnext.weights.catalogue import find, format_table, list_weights
from convnext.weights.convert import convert
from convnext.weights.create import PretrainedInfo, create_model, load_pretrained
from convnext.weights.inspection import Inspection, inspect
from convnext.weights.merging import merge_weights
from convnext.weights.preprocessing import Preprocessing
from convnext.weights.saving import save_pretrained

__all__ = [
    "Inspection",
    "Preprocessing",
    "PretrainedInfo",
    "convert",
    "create_model",
    "find",
    "format_table",
    "inspect",
    "list_weights",
    "load_pretrained",
    "merge_weights",
    "save_pretrained",
]
