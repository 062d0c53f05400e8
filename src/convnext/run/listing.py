"""Tables of what there is: recipes, networks, weights."""

import fnmatch
from typing import Any

import torch

from convnext.data.config import DetectionDataConfig
from convnext.evaluate.cost import macs, num_params
from convnext.evaluate.detector_cost import IMAGE_SIZE
from convnext.models.registry import build_model, list_models
from convnext.recipes import list_recipes
from convnext.recipes.recipe import Recipe
from convnext.tasks.pretrain import PretrainConfig
from convnext.weights.catalogue import list_weights
from convnext.weights.detector_catalogue import list_detector_weights

__all__ = ["detector_table", "model_table", "recipe_table", "weight_table"]

Row = dict[str, Any]
SIZE = 224
NUM_COCO = 80
# Columns that say nothing without detectors, and with nothing but detectors.
UNUSED = (("box AP", "mask AP"), ("top-1", "re-evaluated"))


def recipe_table(pattern: str) -> list[Row]:
    """The named recipes whose name matches a shell-style pattern."""
    return [
        {
            "recipe": name,
            "pixels": _pixels(recipe),
            "effective batch": recipe.optim.batch_size,
            "epochs": recipe.optim.epochs,
            "lr": f"{recipe.optim.lr:.3g}",
            "expected top-1": recipe.expected_top1,
            "starts from": _start(recipe),
            "source": recipe.source,
        }
        for name, recipe in list_recipes().items()
        if fnmatch.fnmatchcase(name, pattern)
    ]


def _pixels(recipe: Recipe) -> int:
    data = recipe.data
    return data.min_size if isinstance(data, DetectionDataConfig) else data.image_size


def _start(recipe: Recipe) -> str:
    if isinstance(recipe.task, PretrainConfig):
        return "scratch, no labels"
    return recipe.task.pretrained or "scratch"


def model_table(pattern: str) -> list[Row]:
    """The networks whose name matches: parameters, multiply-accumulates, published accuracy.

    "top-1" is that of the default published weights at 224 px, "best top-1" that of the best ones,
    with their tag. A pattern with "rcnn" in it lists detectors, see `detector_table`.
    """
    if "rcnn" in pattern:
        return detector_table(pattern)
    rows = []
    for name in list_models(pattern):
        with torch.device("meta"):
            model = build_model(name)
        published = [w for w in list_weights(name) if w.top1 is not None]
        best = max(published, key=lambda w: w.top1 or 0.0, default=None)
        default = next((w for w in published if w.is_default), None)
        rows.append(
            {
                "model": name,
                "parameters": num_params(model),
                f"GMACs at {SIZE}": f"{macs(model, (3, SIZE, SIZE)) / 1e9:.3f}",
                "top-1": default.top1 if default else None,
                "best top-1": best.top1 if best else None,
                "weights": best.tag if best else None,
            }
        )
    return rows


def detector_table(pattern: str) -> list[Row]:
    """The detectors whose name matches: parameters, operations, published accuracy on COCO."""
    # With torchvision, which listing networks does not need.
    from convnext.evaluate.detector_cost import detector_cost
    from convnext.models.mask_rcnn import DETECTORS, MaskRCNN

    rows = []
    for name in fnmatch.filter(DETECTORS, pattern):
        with torch.device("meta"):
            cost = detector_cost(MaskRCNN(DETECTORS[name]))
        best = max(list_detector_weights(name), key=lambda w: w.box_ap, default=None)
        rows.append(
            {
                "model": name,
                "parameters": cost.params,
                f"GFLOPs at {cost.size[1]}x{cost.size[0]}": f"{cost.flops / 1e9:.3f}",
                "best box AP": best.box_ap if best else None,
                "mask AP": best.mask_ap if best else None,
                "weights": best.tag if best else None,
            }
        )
    return rows


def weight_table(pattern: str) -> list[Row]:
    """The published weights whose `model.tag` matches a shell-style pattern.

    Networks and, after them, detectors; columns that say nothing about any of them are left out.
    """
    pattern = pattern if "." in pattern or "*" in pattern else f"*{pattern}*"
    rows: list[Row] = [
        {
            "weights": f"{w.model}.{w.tag}",
            "data": w.data,
            "pixels": w.resolution,
            "classes": w.num_classes,
            "top-1": w.top1,
            "re-evaluated": w.top1_again,
            "box AP": None,
            "mask AP": None,
            "licence": w.licence,
            "address": w.url,
        }
        for w in list_weights(pattern)
    ]
    detectors: list[Row] = [
        {
            "weights": f"{w.model}.{w.tag}",
            "data": w.data,
            "pixels": IMAGE_SIZE[0],
            "classes": NUM_COCO,
            "top-1": None,
            "re-evaluated": None,
            "box AP": w.box_ap,
            "mask AP": w.mask_ap,
            "licence": w.licence,
            "address": w.url,
        }
        for w in list_detector_weights(pattern)
    ]
    unused = () if rows and detectors else UNUSED[bool(detectors)]
    return [{k: v for k, v in row.items() if k not in unused} for row in rows + detectors]
