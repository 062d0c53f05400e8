"""The recipe of a study: one for all networks that are compared."""

from dataclasses import replace
from typing import Literal

from convnext.data import open_splits
from convnext.data.config import DataConfig
from convnext.recipes.recipe import Recipe
from convnext.run.classification import choose_recipe
from convnext.tasks.classify import ClassifyConfig
from convnext.train.config import OptimConfig, TrainConfig

__all__ = ["study_recipe"]


def study_recipe(
    data: DataConfig,
    *,
    model: str,
    image_size: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    device: str = "auto",
) -> tuple[Recipe, int]:
    """Table 5 of "A ConvNet for the 2020s" at ImageNet's scale, else one fit for the data.

    Without averaged weights, which hurt networks with batch norm, and scored after the last epoch
    only, so that no network profits from the choice of an epoch.

    Args:
        data: Where the images are.
        model: A network of the study, for the rules that depend on it.
        image_size: Side of the images in pixels; by the data if None, and so the next two.
        epochs: Passes over the data.
        batch_size: Images a step.
        lr: Peak learning rate; by the batch size if None.
        precision: Arithmetic.
        device: Where to train.

    Returns:
        The recipe, and the number of training images.

    Raises:
        ValueError: The data are not fit for it.
        OSError: They cannot be read.
    """
    any_length = OptimConfig(warmup_epochs=0.0, min_lr=0.0)
    base = Recipe(
        task=ClassifyConfig(model=model),
        data=data,
        optim=any_length,
        train=TrainConfig(device=device, precision=precision),
    )
    recipe, _ = choose_recipe(
        base, model=model, image_size=image_size, batch_size=batch_size, epochs=epochs
    )
    optim = recipe.optim if lr is None else replace(recipe.optim, lr=lr)
    train = replace(
        recipe.train,
        ema_decay=None,
        ema_warmup=False,
        eval_every_epochs=0,
        device=device,
        precision=precision,
    )
    task = replace(recipe.classify, layer_scale_init_value=None, stem_stride=None, model_args={})
    recipe = replace(recipe, task=task, data=recipe.images, optim=optim, train=train, notes="")
    return recipe, len(open_splits(recipe.images).train)
