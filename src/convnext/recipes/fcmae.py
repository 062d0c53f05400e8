"""FCMAE's recipes: table 8 as it stands, and what is left of it on fewer images.

Source: Woo et al., "ConvNeXt V2", CVPR 2023, table 8 and the published command lines: lr = base lr
1.5e-4 x batch / 256, crops from 20 % of the area and flips, no other augmentation.
"""

import math
from collections.abc import Callable
from dataclasses import replace

from convnext.data.config import AugmentConfig, DataConfig
from convnext.data.summary import DataSummary
from convnext.models.fcmae import CELL
from convnext.recipes.recipe import Recipe
from convnext.tasks.pretrain import PretrainConfig
from convnext.train.config import OptimConfig, TrainConfig

__all__ = ["RECIPES", "fit_pretraining"]

IMAGENET_SCALE = 500_000
SIZES = ("atto", "femto", "pico", "nano", "tiny", "base", "large", "huge")
BATCH = 4096
BASE_LR = 1.5e-4

TABLE_8 = Recipe(
    task=PretrainConfig(),
    data=DataConfig(
        image_size=224,
        val_fraction=0.05,
        augment=AugmentConfig(rand_augment="", erase_prob=0.0, scale=(0.2, 1.0)),
    ),
    optim=OptimConfig(
        lr=BASE_LR * BATCH / 256,
        betas=(0.9, 0.95),
        weight_decay=0.05,
        batch_size=BATCH,
        epochs=800,
        warmup_epochs=40.0,
        min_lr=0.0,
        schedule="per_epoch_fraction",
    ),
    train=TrainConfig(ema_decay=None, micro_batch=64, eval_every_epochs=20),
    source="ConvNeXt V2, table 8",
    notes="no labels are read; `convnext train --pretrained RUN/weights` fine-tunes",
)


def _recipes() -> list[Recipe]:
    found = []
    encoders = [(f"fcmae_{size}", f"convnextv2_{size}") for size in SIZES]
    # The paper's comparison: the V1 block under the same pre-training.
    encoders += [(f"fcmae_convnext_{size}", f"convnext_{size}") for size in ("base", "large")]
    for name, encoder in encoders:
        base = replace(TABLE_8, name=name, task=PretrainConfig(encoder=encoder))
        long = replace(base, name=f"{name}_1600ep", optim=replace(base.optim, epochs=1600))
        found += [base, long]
    return found


RECIPES = {recipe.name: recipe for recipe in _recipes()}


def fit_pretraining(
    recipe: Recipe,
    summary: DataSummary,
    *,
    device: str = "cpu",
    image_size: int | None = None,
    batch_size: int | None = None,
    epochs: int | None = None,
) -> tuple[Recipe, list[str]]:
    """A recipe of table 8 made fit for fewer images than ImageNet's.

    Args:
        recipe: One of `RECIPES`.
        summary: Counts and sizes of the data.
        device: "cpu", or an accelerator's type, for which runs are longer.
        image_size: Side of the images in pixels, when the user decides it; likewise the next two.
        batch_size: Images a step.
        epochs: Passes over the data.

    Returns:
        The recipe, and one sentence for each decision.

    Raises:
        ValueError: The image size is no multiple of 32.
    """
    n, cpu = summary.num_train, device == "cpu"
    if image_size is not None and image_size % CELL:
        raise ValueError(
            f"image_size {image_size} cannot be cut into cells of {CELL} px; take "
            f"{max(CELL, round(image_size / CELL) * CELL)}"
        )
    if n >= IMAGENET_SCALE:
        size = image_size or recipe.images.image_size
        return replace(recipe, data=replace(recipe.images, image_size=size)), []
    reasons: list[str] = []
    say: Callable[[str], None] = reasons.append
    say(f"{n:,} images without labels, {summary.median_width}x{summary.median_height} px (median)")
    size = image_size or _size(min(summary.median_width, summary.median_height), cpu)
    cells = (size // CELL) ** 2
    say(f"images of {size} px: {cells} cells of {CELL} px, {int(cells * 0.4)} of them visible")
    batch = batch_size or min(64 if n < 20_000 else 256, 1 << int(math.log2(max(n / 4, 2))))
    per_epoch = max(1, n // batch)
    epochs = epochs or min(800, max(20, round((4_000 if cpu else 40_000) / per_epoch)))
    steps = epochs * per_epoch
    say(f"{epochs} epochs of {per_epoch} steps with batches of {batch}: {steps:,} steps")
    lr = float(f"{min(recipe.optim.lr, recipe.optim.lr * math.sqrt(batch / BATCH) * 2):.3g}")
    say(f"learning rate {lr:.3g}: table 8's {recipe.optim.lr:.3g} is for batches of {BATCH}")
    warmup = round(0.05 * epochs, 3)
    say("warm-up of a twentieth of the run")
    grey = summary.grey
    if grey:
        say("one input channel, because the images are grey")
    return replace(
        recipe,
        data=replace(recipe.images, image_size=size, in_chans=1 if grey else 3),
        optim=replace(
            recipe.optim,
            lr=lr,
            batch_size=batch,
            epochs=epochs,
            warmup_epochs=warmup,
            clip_grad=1.0,
        ),
        train=replace(recipe.train, eval_every_epochs=max(1, epochs // 20)),
        source=f"{recipe.source}, fit for the data",
        notes="; ".join(reasons),
    ), reasons


def _size(side: int, cpu: bool) -> int:
    """Enough cells for a puzzle: 16 at 128 px; more only where pixels and time are there."""
    return 128 if side <= 160 or cpu else 224
