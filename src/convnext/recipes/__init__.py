"""Recipes: named values that decide a run, and the choice of one for a data set."""

from pathlib import Path

from convnext.models.registry import unknown
from convnext.recipes import convnextv2, detection, fcmae, imagenet, large_kernel, segmentation
from convnext.recipes.demo import DEMO, DEMO_DETECTION, DEMO_SEGMENTATION
from convnext.recipes.recipe import Recipe

__all__ = ["find_recipe", "is_fitted", "list_recipes"]


def list_recipes() -> dict[str, Recipe]:
    """All named recipes, in the order of the tables they come from; that of the demo at the end."""
    return {
        **imagenet.RECIPES,
        **convnextv2.RECIPES,
        **fcmae.RECIPES,
        **large_kernel.RECIPES,
        **detection.RECIPES,
        **segmentation.RECIPES,
        DEMO.name: DEMO,
        DEMO_DETECTION.name: DEMO_DETECTION,
        DEMO_SEGMENTATION.name: DEMO_SEGMENTATION,
    }


def is_fitted(name: str) -> bool:
    """Whether the recipe of a name is fit to the data, so that its values are those of no table.

    Where there are as many images as in the published training it is taken as published.
    """
    return name in detection.FITTED or name in segmentation.FITTED


def find_recipe(name: str) -> Recipe:
    """A recipe by its name, or from a `recipe.json`.

    Raises:
        ValueError: There is no such recipe; the nearest names are given.
        OSError: The file cannot be read.
    """
    if name.endswith(".json"):
        return Recipe.from_file(Path(name))
    recipes = list_recipes()
    if name not in recipes:
        raise unknown("recipe", name, recipes)
    return recipes[name]
