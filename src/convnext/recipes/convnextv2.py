"""ConvNeXt V2's fine-tuning recipes, which start from FCMAE weights.

Source: Woo et al., "ConvNeXt V2", CVPR 2023, tables 9 to 13; lr = base lr x batch / 256. For B
and L the table prints a base lr of 6.25e-3; the published command lines and weights are of
6.25e-4, which is used here. GRN's γ and β are not decayed, as in the repository's last version.
Expected accuracies are those of the catalogue.
"""

from dataclasses import replace
from typing import Literal, NamedTuple

from convnext.data.config import DataConfig
from convnext.recipes.recipe import Recipe
from convnext.tasks.classify import ClassifyConfig
from convnext.train.config import OptimConfig, TrainConfig
from convnext.weights.catalogue import published_top1

__all__ = ["RECIPES"]

EMA = 0.9999
BASE = Recipe(
    task=ClassifyConfig(head_init_scale=0.001, redraw_head=True),
    data=DataConfig(image_size=224),
    optim=OptimConfig(
        betas=(0.9, 0.999),
        weight_decay=0.05,
        batch_size=1024,
        min_lr=1e-6,
        schedule="per_epoch_fraction",
    ),
    train=TrainConfig(ema_decay=EMA, micro_batch=32),
)


class _Row(NamedTuple):
    base_lr: float
    epochs: int
    warmup: float
    weight_decay: float
    layer_decay: float
    rule: Literal["single", "group"]
    smoothing: float
    mixup: float
    cutmix: float
    drop_path: float


_FINE_TUNE = {
    "atto": _Row(2e-4, 600, 0.0, 0.3, 0.9, "single", 0.2, 0.0, 0.0, 0.1),
    "femto": _Row(2e-4, 600, 0.0, 0.05, 0.9, "single", 0.2, 0.3, 0.3, 0.0),
    "pico": _Row(2e-4, 600, 0.0, 0.3, 0.9, "single", 0.2, 0.3, 0.3, 0.0),
    "nano": _Row(2e-4, 600, 0.0, 0.3, 0.9, "single", 0.2, 0.5, 0.5, 0.1),
    "tiny": _Row(8e-4, 300, 40.0, 0.05, 0.9, "single", 0.1, 0.8, 1.0, 0.2),
    "base": _Row(6.25e-4, 100, 20.0, 0.05, 0.6, "group", 0.1, 0.8, 1.0, 0.1),
    "large": _Row(6.25e-4, 100, 20.0, 0.05, 0.6, "group", 0.1, 0.8, 1.0, 0.2),
    "huge": _Row(1.25e-3, 50, 10.0, 0.05, 0.75, "single", 0.1, 0.8, 1.0, 0.3),
}
# size: layer decay, drop path, of the intermediate fine-tuning on IN-22K
_IN22K = {
    "nano": (0.9, 0.0),
    "tiny": (0.9, 0.0),
    "base": (0.8, 0.1),
    "large": (0.8, 0.1),
    "huge": (0.8, 0.3),
}
# size: layer decay, drop path, epochs, EMA, image sizes, of the last step on IN-1K
_IN22K_FT = {
    "nano": (0.9, 0.1, 90, EMA, (224, 384)),
    "tiny": (0.9, 0.1, 90, EMA, (224, 384)),
    "base": (0.8, 0.2, 30, EMA, (224, 384)),
    "large": (0.8, 0.3, 30, EMA, (224, 384)),
    "huge": (0.85, 0.5, 30, None, (384, 512)),
}


def _fine_tune(size: str) -> Recipe:
    row = _FINE_TUNE[size]
    return replace(
        BASE,
        name=f"convnextv2_{size}_fcmae_ft_in1k",
        task=replace(
            BASE.classify,
            model=f"convnextv2_{size}",
            pretrained="fcmae",
            drop_path_rate=row.drop_path,
            smoothing=row.smoothing,
            mixup=row.mixup,
            cutmix=row.cutmix,
        ),
        optim=replace(
            BASE.optim,
            lr=row.base_lr * BASE.optim.batch_size / 256,
            epochs=row.epochs,
            warmup_epochs=row.warmup,
            weight_decay=row.weight_decay,
            layer_decay=row.layer_decay,
            layer_decay_rule=row.rule,
        ),
        source="ConvNeXt V2, tables 9 to 11",
        expected_top1=published_top1(f"convnextv2_{size}", "fcmae_ft_in1k"),
        notes="the type of layer decay is not stated" if size == "huge" else "",
    )


def _in22k(size: str) -> Recipe:
    layer_decay, drop_path = _IN22K[size]
    base = _fine_tune(size)
    return replace(
        base,
        name=f"convnextv2_{size}_fcmae_ft_in22k",
        task=replace(base.classify, drop_path_rate=drop_path, smoothing=0.1, mixup=0.8, cutmix=1.0),
        data=replace(base.images, image_size=384),
        optim=replace(
            base.optim,
            lr=2.5e-4 * 4096 / 256,
            batch_size=4096,
            epochs=90,
            warmup_epochs=5.0,
            weight_decay=0.05,
            layer_decay=layer_decay,
        ),
        train=replace(base.train, ema_decay=None),
        source="ConvNeXt V2, table 12",
        expected_top1=None,
        notes="21,841 classes; the type of layer decay is that of the size's IN-1K recipe",
    )


def _in22k_fine_tune(size: str, pixels: int) -> Recipe:
    layer_decay, drop_path, epochs, ema, _ = _IN22K_FT[size]
    base = _in22k(size)
    suffix = "" if pixels == 224 else f"_{pixels}"
    return replace(
        base,
        name=f"convnextv2_{size}_fcmae_ft_in22k_in1k{suffix}",
        task=replace(
            base.classify,
            pretrained=f"runs/{base.name}/weights",
            drop_path_rate=drop_path,
            mixup=0.0,
            cutmix=0.0,
        ),
        data=replace(base.images, image_size=pixels),
        optim=replace(
            base.optim,
            lr=2.5e-5 * 512 / 256,
            batch_size=512,
            epochs=epochs,
            warmup_epochs=0.0,
            weight_decay=1e-8,
            layer_decay=layer_decay,
        ),
        train=replace(base.train, ema_decay=ema),
        source="ConvNeXt V2, table 13",
        expected_top1=published_top1(f"convnextv2_{size}", f"fcmae_ft_in22k_in1k{suffix}"),
        notes=f"starts from the weights of your own run of {base.name}; none were published"
        + ("" if pixels == 384 else "; the table states 384 px only"),
    )


RECIPES = {
    recipe.name: recipe
    for recipe in [
        *(_fine_tune(size) for size in _FINE_TUNE),
        *(_in22k(size) for size in _IN22K),
        *(_in22k_fine_tune(size, px) for size, row in _IN22K_FT.items() for px in row[4]),
    ]
}
