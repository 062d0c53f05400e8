"""Train, evaluate, predict: a recipe wired to data, task, engine, metrics and report.

Names are loaded on first use, so that lists do not wait for what reads images.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convnext.run.classification import choose_recipe
    from convnext.run.detection import choose_detection
    from convnext.run.detection_evaluation import evaluate_objects
    from convnext.run.detection_prediction import predict_objects
    from convnext.run.evaluation import evaluate
    from convnext.run.prediction import predict
    from convnext.run.pretraining import choose_pretraining
    from convnext.run.segmentation import choose_segmentation
    from convnext.run.segmentation_evaluation import evaluate_segments
    from convnext.run.target import kind_of_target
    from convnext.run.training import train

_HOMES = {
    "choose_detection": "detection",
    "choose_pretraining": "pretraining",
    "choose_recipe": "classification",
    "choose_segmentation": "segmentation",
    "evaluate": "evaluation",
    "evaluate_objects": "detection_evaluation",
    "evaluate_segments": "segmentation_evaluation",
    "kind_of_target": "target",
    "predict": "prediction",
    "predict_objects": "detection_prediction",
    "train": "training",
}

__all__ = [
    "choose_detection",
    "choose_pretraining",
    "choose_recipe",
    "choose_segmentation",
    "evaluate",
    "evaluate_objects",
    "evaluate_segments",
    "kind_of_target",
    "predict",
    "predict_objects",
    "train",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"convnext.run.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'convnext.run' has no attribute {name!r}")
