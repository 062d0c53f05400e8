"""`convnext train`."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from convnext import run
from convnext.cli.parse import parse
from convnext.recipes import find_recipe, list_recipes
from convnext.recipes.recipe import Recipe
from convnext.run.folder import RunFolder
from convnext.tasks.classify import ClassifyConfig
from convnext.tasks.pretrain import PretrainConfig
from convnext.train.config import OptimConfig

__all__ = ["train"]

# Short words for the fields that people set most.
SHORTHANDS = {
    "--data": "--data.path",
    "--model": "--task.model",
    "--pretrained": "--task.pretrained",
    "--epochs": "--optim.epochs",
    "--batch-size": "--optim.batch-size",
    "--lr": "--optim.lr",
    "--image-size": "--data.image-size",
    "--seed": "--train.seed",
    "--device": "--train.device",
    "--workers": "--data.workers",
}


def train(arguments: list[str]) -> int:
    """Train, or go on with a run that stopped."""
    arguments = _long_form(arguments)
    # What the user gives is read twice: to choose a recipe, and then on top of that recipe.
    any_length = OptimConfig(warmup_epochs=0.0, min_lr=0.0)
    task = _named_task(arguments)
    first, base = _train_arguments(arguments, Recipe(name="auto", task=task, optim=any_length))
    out = Path(first.out) if first.out else _default_out(first.recipe, base.data.path)
    reasons: Sequence[str] = ()
    given = {
        "image_size": base.data.image_size if _given(arguments, "--data.image-size") else None,
        "batch_size": base.optim.batch_size if _given(arguments, "--optim.batch-size") else None,
        "epochs": base.optim.epochs if _given(arguments, "--optim.epochs") else None,
    }
    if first.recipe:
        recipe = find_recipe(first.recipe)
        if isinstance(task, PretrainConfig) and not first.recipe.endswith(".json"):
            _need_data(base)
            recipe, reasons = run.choose_pretraining(recipe, base, **given)
            if RunFolder(out).stored() is not None:
                recipe, reasons = Recipe.from_file(RunFolder(out).recipe_file), ()
    elif RunFolder(out).stored() is not None:
        recipe = Recipe.from_file(RunFolder(out).recipe_file)  # chosen when the run began
    else:
        _need_data(base)
        recipe, reasons = run.choose_recipe(
            base,
            model=base.classify.model if _given(arguments, "--task.model") else "",
            **given,
        )
    _, recipe = _train_arguments(arguments, recipe)
    _need_data(recipe)
    run.train(recipe, out, reasons=reasons)
    return 0


def _named_task(arguments: Sequence[str]) -> ClassifyConfig | PretrainConfig:
    """The task of the recipe that is named, since it decides which options there are."""
    recipes = list_recipes()
    named = next((a for a in arguments if a in recipes or a.endswith(".json")), None)
    return find_recipe(named).task if named is not None else ClassifyConfig()


def _need_data(recipe: Recipe) -> None:
    if not recipe.data.path:
        raise ValueError("no images: --data DIR names the folder (or a CSV, tar shards, hf:NAME)")


def _train_arguments(arguments: list[str], recipe: Recipe) -> tuple[Any, Recipe]:
    """Parse `convnext train`'s arguments on top of a recipe."""
    parts = ("task", "data", "optim", "train")
    help_recipe = "name of a recipe (convnext recipes) or a recipe.json; empty = fit for the data"
    help_out = "folder of the run; the same command goes on where it stopped"
    fields: list[Any] = [
        (
            "recipe",
            Annotated[
                tyro.conf.Positional[str], tyro.conf.arg(help=help_recipe, metavar="[RECIPE]")
            ],
            dataclasses.field(default=""),
        ),
        ("out", Annotated[str, tyro.conf.arg(help=help_out)], dataclasses.field(default="")),
        *(
            (part, type(getattr(recipe, part)), dataclasses.field(default=getattr(recipe, part)))
            for part in parts
        ),
    ]
    short = ", ".join(f"{word} ({long})" for word, long in SHORTHANDS.items())
    about = f"Train a classifier; without RECIPE one fit for the data is chosen. Short: {short}."
    kind = dataclasses.make_dataclass(
        "TrainArguments", fields, frozen=True, kw_only=True, namespace={"__doc__": about}
    )
    parsed: Any = parse(kind, arguments, "train", also=tuple(SHORTHANDS))
    return parsed, dataclasses.replace(recipe, **{part: getattr(parsed, part) for part in parts})


def _given(arguments: Sequence[str], option: str) -> bool:
    return any(argument.partition("=")[0] == option for argument in arguments)


def _default_out(recipe: str, data: str) -> Path:
    name = Path(recipe or data).name.removesuffix(".json")
    return Path("runs") / (re.sub(r"[^\w.-]+", "_", name).strip("_.") or "auto")


def _long_form(arguments: Sequence[str]) -> list[str]:
    """Spell out the short words; `--pretrained` without a value means the default weights."""
    spelled = []
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        name = name.replace("_", "-") if name.startswith("--") else name
        spelled.append(SHORTHANDS.get(name, name) + equals + value)
        following = arguments[i + 1 : i + 2]
        if argument in ("--pretrained", "--task.pretrained") and (
            not following or following[0].startswith("--")
        ):
            spelled.append("true")
    return spelled
