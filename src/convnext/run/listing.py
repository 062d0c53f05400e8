"""Tables of what there is: recipes, networks, weights."""

import fnmatch
from typing import Any

import torch

from convnext.data.config import DataConfig
from convnext.evaluate.cost import macs, num_params
from convnext.evaluate.detector_cost import IMAGE_SIZE
from convnext.evaluate.part_cost import PartCost
from convnext.evaluate.segmenter_cost import segmenter_cost
from convnext.models.registry import build_model, list_models
from convnext.models.upernet import SEGMENTERS, UPerNet
from convnext.recipes import is_fitted, list_recipes
from convnext.recipes.recipe import Recipe
from convnext.tasks.pretrain import PretrainConfig
from convnext.weights.catalogue import Weights, list_weights
from convnext.weights.detector_catalogue import list_detector_weights
from convnext.weights.segmenter_catalogue import list_segmenter_weights
from convnext.weights.systems.catalogue import SystemWeights

__all__ = ["detector_table", "model_table", "recipe_table", "segmenter_table", "weight_table"]

Row = dict[str, Any]
SIZE = 224
NUM_COCO = 80
NUM_ADE20K = 150
# Columns of networks, of detectors and of segmentation networks.
SCORES = (("top-1", "re-evaluated"), ("box AP", "mask AP"), ("mIoU", "multi-scale mIoU"))


def recipe_table(pattern: str) -> list[Row]:
    """The named recipes whose name matches a shell-style pattern."""
    return [
        _fitted_row(name) if is_fitted(name) else _recipe_row(name, recipe)
        for name, recipe in list_recipes().items()
        if fnmatch.fnmatchcase(name, pattern)
    ]


def _recipe_row(name: str, recipe: Recipe) -> Row:
    return {
        "recipe": name,
        "pixels": _pixels(recipe),
        "effective batch": recipe.optim.batch_size,
        "length": recipe.optim.length,
        "lr": f"{recipe.optim.lr:.3g}",
        "expected": _expected(recipe),
        "starts from": _start(recipe),
        "source": recipe.source,
    }


def _fitted_row(name: str) -> Row:
    """Of a recipe that is fit to the data, whose values no table can give."""
    unknown = dict.fromkeys(("pixels", "effective batch", "length", "lr", "expected"))
    return {"recipe": name, **unknown, "starts from": "scratch", "source": "fit to the data"}


def _pixels(recipe: Recipe) -> int:
    data = recipe.data
    return data.image_size if isinstance(data, DataConfig) else data.min_size


def _expected(recipe: Recipe) -> str | None:
    """The published score, in words."""
    if recipe.expected_ap is not None:
        return "AP {} / {}".format(*recipe.expected_ap)
    if recipe.expected_miou is not None:
        return "mIoU " + " / ".join("-" if v is None else str(v) for v in recipe.expected_miou)
    return None if recipe.expected_top1 is None else f"top-1 {recipe.expected_top1}"


def _start(recipe: Recipe) -> str:
    if isinstance(recipe.task, PretrainConfig):
        return "scratch, no labels"
    return recipe.task.pretrained or "scratch"


def model_table(pattern: str) -> list[Row]:
    """The networks whose name matches: parameters, multiply-accumulates, published accuracy.

    "top-1" is that of the default published weights at 224 px, "best top-1" that of the best ones,
    with their tag. A pattern with "rcnn" in it lists detectors, see `detector_table`, one with
    "upernet" segmentation networks, see `segmenter_table`.
    """
    if "rcnn" in pattern:
        return detector_table(pattern)
    if "upernet" in pattern:
        return segmenter_table(pattern)
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
    from convnext.evaluate.detector_cost import detector_cost
    from convnext.models.mask_rcnn import DETECTORS, MaskRCNN

    rows = []
    for name in fnmatch.filter(DETECTORS, pattern):
        with torch.device("meta"):
            cost = detector_cost(MaskRCNN(DETECTORS[name]))
        best = max(list_detector_weights(name), key=lambda w: w.box_ap, default=None)
        scores = {
            "best box AP": best.box_ap if best else None,
            "mask AP": best.mask_ap if best else None,
        }
        rows.append(_system_row(name, cost, scores, best))
    return rows


def segmenter_table(pattern: str) -> list[Row]:
    """Segmentation networks whose name matches: parameters, operations, published mIoU on ADE20K.

    Operations are those of an image of 2048 x 512; the published scores of 640 px are of a larger.
    """
    rows = []
    for name in fnmatch.filter(SEGMENTERS, pattern):
        with torch.device("meta"):
            cost = segmenter_cost(UPerNet(SEGMENTERS[name]))
        best = max(list_segmenter_weights(name), key=lambda w: w.miou, default=None)
        scores = {
            "best mIoU": best.miou if best else None,
            "multi-scale": best.miou_multi_scale if best else None,
        }
        rows.append(_system_row(name, cost, scores, best))
    return rows


def _system_row(
    name: str, cost: PartCost, scores: dict[str, float | None], best: SystemWeights | None
) -> Row:
    return {
        "model": name,
        "parameters": cost.params,
        f"GFLOPs at {cost.size[1]}x{cost.size[0]}": f"{cost.flops / 1e9:.3f}",
        **scores,
        "weights": best.tag if best else None,
    }


def weight_table(pattern: str) -> list[Row]:
    """The published weights whose `model.tag` matches a shell-style pattern.

    Networks and, after them, detectors and segmentation networks; scores that none of those listed
    has are left out.
    """
    pattern = pattern if "." in pattern or "*" in pattern else f"*{pattern}*"
    networks = [
        _weight_row(w, w.resolution, w.num_classes, w.top1, w.top1_again)
        for w in list_weights(pattern)
    ]
    detectors = [
        _weight_row(w, IMAGE_SIZE[0], NUM_COCO, w.box_ap, w.mask_ap)
        for w in list_detector_weights(pattern)
    ]
    segmenters = [
        _weight_row(w, w.crop_size, NUM_ADE20K, w.miou, w.miou_multi_scale)
        for w in list_segmenter_weights(pattern)
    ]
    listed = [
        (rows, s) for rows, s in zip((networks, detectors, segmenters), SCORES, strict=True) if rows
    ]
    columns = [name for _, names in listed for name in names]
    return [
        {**start, **dict.fromkeys(columns), **dict(zip(names, scores, strict=True)), **end}
        for rows, names in listed
        for start, scores, end in rows
    ]


def _weight_row(
    entry: Weights | SystemWeights, pixels: int, num_classes: int, *scores: float | None
) -> tuple[Row, tuple[float | None, ...], Row]:
    """A row in three parts: what is before the scores, the scores, what is after them."""
    start = {
        "weights": f"{entry.model}.{entry.tag}",
        "data": entry.data,
        "pixels": pixels,
        "classes": num_classes,
    }
    return start, scores, {"licence": entry.licence, "address": entry.url}
