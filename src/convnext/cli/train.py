"""`convnext train`."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, cast

import tyro

from convnext import run
from convnext.cli.parse import parse
from convnext.data.config import DataConfig, DetectionDataConfig, SegmentationDataConfig
from convnext.recipes import find_recipe, list_recipes
from convnext.recipes.recipe import Recipe
from convnext.recipes.segmentation import GivenSizes
from convnext.run.folder import RunFolder
from convnext.run.task_choice import choose_task
from convnext.tasks.classify import ClassifyConfig
from convnext.tasks.detect import DetectConfig
from convnext.tasks.pretrain import PretrainConfig
from convnext.tasks.segment import SegmentConfig
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


# Options whose value might be taken for the name of a recipe.
VALUED = (
    *("--data", "--data.path", "--out", "--model", "--task.model"),
    *("--pretrained", "--task.pretrained", "--task.teacher"),
)
# What is given for one side is checked against the other only when both are chosen.
ANY_SIZE = {
    DetectConfig: DetectionDataConfig(max_size=1 << 20),
    SegmentConfig: SegmentationDataConfig(max_size=1 << 20, window=1 << 20, stride=1),
}
SIDE_SHORTHANDS = SHORTHANDS | {"--image-size": "--data.min-size"}


def train(arguments: list[str]) -> int:
    """Train, or go on with a run that stopped."""
    start = _start(arguments)
    short = SIDE_SHORTHANDS if type(start.task) in ANY_SIZE else SHORTHANDS
    arguments = _long_form(arguments, short)
    # What the user gives is read twice: to choose a recipe, and then on top of that recipe.
    first, base = _train_arguments(arguments, start, short)
    out = Path(first.out) if first.out else _default_out(first.recipe, base.data.path)
    resumed = RunFolder(out).stored() is not None
    reasons: Sequence[str] = ()
    if first.recipe.endswith(".json"):
        recipe = find_recipe(first.recipe)
    elif resumed and (not first.recipe or not isinstance(start.task, ClassifyConfig)):
        recipe = Recipe.from_file(RunFolder(out).recipe_file)  # chosen when the run began
    elif first.recipe and (isinstance(start.task, ClassifyConfig) or _has_images(first, base)):
        recipe = find_recipe(first.recipe)
    else:
        _need_data(base)
        recipe, reasons = _choose(first.recipe, base, arguments)
    chosen = recipe.task
    recipe, of_length = _of_given_length(recipe, base.optim, arguments)
    if isinstance(recipe.data, SegmentationDataConfig):
        recipe = replace(recipe, data=_given_sizes(base, arguments).put_in(recipe.data))
    _, recipe = _train_arguments(arguments, recipe, short)
    task = recipe.task
    if isinstance(task, DetectConfig | SegmentConfig) and type(chosen) is type(task):
        # Given fields join those that were chosen for the data.
        recipe = replace(recipe, task=_joined(chosen, task))
        if ":" in task.model and _given(arguments, "--task.body-args"):
            raise ValueError(
                f"--task.body-args is for the networks of this package, and {task.model} stands on "
                "one of timm; choose another of its names instead"
            )
    _need_data(recipe)
    run.train(recipe, out, reasons=[*reasons, *of_length])
    return 0


def _has_images(first: Any, base: Recipe) -> bool:
    """Whether a named recipe brings its own images, and no others are given."""
    return not base.data.path and bool(find_recipe(first.recipe).data.path)


def _of_given_length(
    recipe: Recipe, given: OptimConfig, arguments: Sequence[str]
) -> tuple[Recipe, list[str]]:
    """A recipe that counts in steps in the length that is given, and what its warm-up became."""
    old = new = recipe.optim
    if old.steps is None:
        return recipe, []
    if given.steps is not None:
        new = old.lasting(steps=given.steps)
    elif _given(arguments, "--optim.epochs"):
        new = old.lasting(epochs=given.epochs)
    own = _given(arguments, "--optim.warmup-steps")
    if not own and _given(arguments, "--optim.warmup-epochs"):
        own, new = True, replace(new, warmup_steps=None)
    recipe = replace(recipe, optim=new)
    if own or new == old or old.warmup_steps is None:
        return recipe, []
    length = f"{new.warmup_epochs:.3g} epochs"
    if new.warmup_steps is not None:
        length = f"{new.warmup_steps:,} steps"
    share = f"{old.warmup_steps:,} of {old.length}"
    return recipe, [f"warm-up of {length}, in proportion to the recipe's {share}"]


def _given_sizes(base: Recipe, arguments: Sequence[str]) -> GivenSizes:
    """The sizes of crops and windows that are given."""
    names = ("crop_size", "window", "stride")
    return GivenSizes(
        **{
            name: getattr(base.data, name)
            for name in names
            if _given(arguments, f"--data.{name.replace('_', '-')}")
        }
    )


def _start(arguments: Sequence[str]) -> Recipe:
    """The kind of recipe that is meant, since it decides which options there are."""
    any_length = OptimConfig(warmup_epochs=0.0, min_lr=0.0)
    recipes = list_recipes()
    named = next((a for a in _positional(arguments) if a in recipes or a.endswith(".json")), None)
    task: Any = ClassifyConfig()
    if named is not None:
        task = find_recipe(named).task
    else:
        model = _value(arguments, "--model", "--task.model")
        images = _value(arguments, "--data", "--data.path")
        out = _value(arguments, "--out")
        task = choose_task(model, images, Path(out) if out else _default_out("", images))
    data: Any = ANY_SIZE.get(type(task), DataConfig())
    if {"-h", "--help"} & set(arguments):
        data = type(data)()  # it shows the usual values
    return Recipe(name="auto", task=task, data=data, optim=any_length)


def _joined(chosen: Any, given: Any) -> Any:
    """A task with the fields of the networks that were chosen, and on top those that are given."""
    return replace(
        given,
        model_args={**chosen.model_args, **given.model_args},
        body_args={**chosen.body_args, **given.body_args},
    )


def _positional(arguments: Sequence[str]) -> list[str]:
    """The arguments that are no options and not what the commonest of them take."""
    found, before = [], ""
    for argument in arguments:
        if not argument.startswith("-") and before not in VALUED:
            found.append(argument)
        before = argument
    return found


def _value(arguments: Sequence[str], *options: str) -> str:
    """What is given for an option, or ""."""
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in options:
            return value if equals else "".join(arguments[i + 1 : i + 2])
    return ""


def _choose(name: str, base: Recipe, arguments: Sequence[str]) -> tuple[Recipe, Sequence[str]]:
    """A recipe fit for the data, in the frame of the named one if there is a name."""
    batch = base.optim.batch_size if _given(arguments, "--optim.batch-size") else None
    epochs = base.optim.epochs if _given(arguments, "--optim.epochs") else None
    fit: Any = {DetectConfig: run.choose_detection, SegmentConfig: run.choose_segmentation}
    if type(base.task) in fit:
        task, data = cast(Any, base.task), cast(Any, base.data)
        fitted: tuple[Recipe, Sequence[str]] = fit[type(base.task)](
            replace(data, max_size=max(data.min_size, type(data)().max_size)),
            recipe=find_recipe(name) if name else None,
            model=task.model if _given(arguments, "--task.model") else "",
            pretrained=task.pretrained if _given(arguments, "--task.pretrained") else "",
            device=base.train.device,
            image_size=data.min_size if _given(arguments, "--data.min-size") else None,
            batch_size=batch,
            epochs=epochs,
            **({"sizes": _given_sizes(base, arguments)} if isinstance(task, SegmentConfig) else {}),
        )
        return fitted
    size = base.images.image_size if _given(arguments, "--data.image-size") else None
    given = {"image_size": size, "batch_size": batch, "epochs": epochs}
    if isinstance(base.task, PretrainConfig):
        return run.choose_pretraining(find_recipe(name), base, **given)
    model = base.classify.model if _given(arguments, "--task.model") else ""
    return run.choose_recipe(base, model=model, **given)


def _need_data(recipe: Recipe) -> None:
    if not recipe.data.path:
        raise ValueError("no images: --data DIR names the folder (or a CSV, tar shards, hf:NAME)")


def _train_arguments(
    arguments: list[str], recipe: Recipe, shorthands: Mapping[str, str]
) -> tuple[Any, Recipe]:
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
    short = ", ".join(f"{word} ({long})" for word, long in shorthands.items())
    about = f"Train; without RECIPE one fit for the data is chosen. Short: {short}."
    kind = dataclasses.make_dataclass(
        "TrainArguments", fields, frozen=True, kw_only=True, namespace={"__doc__": about}
    )
    parsed: Any = parse(kind, arguments, "train", also=tuple(shorthands))
    return parsed, dataclasses.replace(recipe, **{part: getattr(parsed, part) for part in parts})


def _given(arguments: Sequence[str], option: str) -> bool:
    return any(argument.partition("=")[0] == option for argument in arguments)


def _default_out(recipe: str, data: str) -> Path:
    name = Path(recipe or data).name.removesuffix(".json")
    return Path("runs") / (re.sub(r"[^\w.-]+", "_", name).strip("_.") or "auto")


def _long_form(arguments: Sequence[str], shorthands: Mapping[str, str]) -> list[str]:
    """Spell out the short words; `--pretrained` without a value means the default weights."""
    spelled = []
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        name = name.replace("_", "-") if name.startswith("--") else name
        spelled.append(shorthands.get(name, name) + equals + value)
        following = arguments[i + 1 : i + 2]
        if argument in ("--pretrained", "--task.pretrained") and (
            not following or following[0].startswith("--")
        ):
            spelled.append("true")
    return spelled
