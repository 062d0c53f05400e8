"""Train, evaluate, predict: a recipe wired to data, task, engine, metrics and report."""

from convnext.run.evaluation import evaluate
from convnext.run.prediction import predict
from convnext.run.training import choose_recipe, train

__all__ = ["choose_recipe", "evaluate", "predict", "train"]
