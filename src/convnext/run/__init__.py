"""Train, evaluate, predict: a recipe wired to data, task, engine, metrics and report."""

from convnext.run.classification import choose_recipe
from convnext.run.detection import choose_detection
from convnext.run.detection_evaluation import evaluate_objects
from convnext.run.detection_loading import detects
from convnext.run.detection_prediction import predict_objects
from convnext.run.evaluation import evaluate
from convnext.run.prediction import predict
from convnext.run.pretraining import choose_pretraining
from convnext.run.training import train

__all__ = [
    "choose_detection",
    "choose_pretraining",
    "choose_recipe",
    "detects",
    "evaluate",
    "evaluate_objects",
    "predict",
    "predict_objects",
    "train",
]
