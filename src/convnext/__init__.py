"""ConvNeXt and its successors: networks, weights, training, evaluation and prediction.

Names are loaded on first use, so that the command line answers before torch is imported.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convnext.deploy.fused import optimize
    from convnext.models.large_kernel import merge
    from convnext.models.registry import list_models
    from convnext.weights import (
        create_detector,
        create_model,
        create_segmenter,
        load_detector,
        load_pretrained,
        load_segmenter,
        save_detector,
        save_pretrained,
        save_segmenter,
    )

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "create_detector",
    "create_model",
    "create_segmenter",
    "list_models",
    "load_detector",
    "load_pretrained",
    "load_segmenter",
    "merge",
    "optimize",
    "save_detector",
    "save_pretrained",
    "save_segmenter",
]

_HOMES = {
    "create_detector": "convnext.weights",
    "create_model": "convnext.weights",
    "create_segmenter": "convnext.weights",
    "load_detector": "convnext.weights",
    "save_detector": "convnext.weights",
    "list_models": "convnext.models.registry",
    "load_pretrained": "convnext.weights",
    "load_segmenter": "convnext.weights",
    "merge": "convnext.models.large_kernel",
    "optimize": "convnext.deploy.fused",
    "save_pretrained": "convnext.weights",
    "save_segmenter": "convnext.weights",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'convnext' has no attribute {name!r}")
