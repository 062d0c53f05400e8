"""`convnext roadmap`: the road from ResNet to ConvNeXt, trained step by step on the user's data."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from convnext.models.registry import model_config
from convnext.models.roadmap import STEPS
from convnext.published.roadmap import ROAD
from convnext.recipes.choose import IMAGENET_SCALE, OPEN_LAYER_SCALE
from convnext.recipes.recipe import Recipe
from convnext.run.ablation import Variant, ablate, data_name, select
from convnext.run.folder import say_line

__all__ = ["road_variants", "roadmap"]

DROP_PATH = {"t": 0.1, "b": 0.5}  # table 5; for the steps before ConvNeXt-B no rate is stated


def road_variants(
    regime: Literal["t", "b"], steps: Sequence[str] = (), *, width_scale: float = 1.0, short: bool
) -> list[Variant]:
    """The steps of a regime as variants, each with what the paper reached.

    Args:
        regime: "t": ResNet-50 to ConvNeXt-T, "b": ResNet-200 to ConvNeXt-B.
        steps: Names of steps; all if empty.
        width_scale: Factor on every width; widths are rounded to multiples of 8.
        short: Whether the runs are too short for a layer scale that starts at 1e-6.

    Raises:
        ValueError: There is no such step, or the scale is not positive.
    """
    if width_scale <= 0:
        raise ValueError(f"width_scale {width_scale} must be above 0")
    chosen = select(steps, [step.name for step in STEPS])
    found = []
    for step in STEPS:
        if step.name not in chosen:
            continue
        name = f"roadmap_{regime}_{step.name}"
        config = model_config(name)
        args: dict[str, Any] = {}
        if width_scale != 1.0:
            args["width"] = max(8, 8 * round(config.width * width_scale / 8))
        if config.layer_scale_init_value and short:
            args["layer_scale_init_value"] = OPEN_LAYER_SCALE
        found.append(
            Variant(
                name=step.name,
                title=step.title,
                model=name,
                model_args=args,
                adopted=step.adopted,
                published=ROAD[step.name][regime],
            )
        )
    return found


def roadmap(
    recipe: Recipe,
    out: Path,
    *,
    num_train: int,
    regime: Literal["t", "b"] = "t",
    steps: Sequence[str] = (),
    seeds: int = 1,
    width_scale: float = 1.0,
    jobs: int = 0,
    say: Callable[[str], None] = say_line,
) -> list[dict[str, Any]]:
    """Train the steps of the road under one recipe and set them beside the paper's.

    Args:
        recipe: Table 5 without averaged weights, as far as the data allow it.
        out: Folder of the study.
        num_train: Number of training images.
        regime: As for `road_variants`, and so the next two.
        steps: Names of steps; all if empty.
        seeds: Runs of each step.
        width_scale: Factor on every width.
        jobs: Runs at a time, see `ablate`.
        say: Where messages go.

    Returns:
        The rows of the table.

    Raises:
        ValueError: There is no such step, or `out` holds a study with other settings.
        OSError: Something cannot be read or written.
    """
    short = num_train < IMAGENET_SCALE
    if not short:
        task = replace(recipe.classify, drop_path_rate=DROP_PATH[regime])
        recipe = replace(recipe, task=task)
    variants = road_variants(regime, steps, width_scale=width_scale, short=short)
    end = {"t": "ResNet-50 to ConvNeXt-T", "b": "ResNet-200 to ConvNeXt-B"}[regime]
    scale = "" if width_scale == 1.0 else f", widths x {width_scale:g}"
    title = f"{end} on {data_name(recipe.images.path)}{scale}"
    return ablate(variants, recipe, out, title=title, seeds=seeds, jobs=jobs, say=say)
