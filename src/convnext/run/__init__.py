"""Train, evaluate, predict: a recipe wired to data, task, engine, metrics and report."""

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
