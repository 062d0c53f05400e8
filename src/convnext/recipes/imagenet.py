"""ConvNeXt's recipes on ImageNet.

Source: Liu et al., "A ConvNet for the 2020s", CVPR 2022: tables 5 and 6 (settings), tables 1, 2
and 12 (accuracies); the command lines of the official repository where a table is silent.
Two corrections: the initial weights have std 0.02 (table 5 prints 0.2; the networks here do it
right), and layer scale is off for isotropic S and B only.
"""

from dataclasses import replace

from convnext.data.config import DataConfig
from convnext.recipes.recipe import Recipe
from convnext.tasks.classify import ClassifyConfig
from convnext.train.config import OptimConfig, TrainConfig

__all__ = ["RECIPES"]

EMA = 0.9999

# Table 5, column "IN-1K". Batch 4096 is reached by accumulation on any number of devices.
SCRATCH = Recipe(
    task=ClassifyConfig(smoothing=0.1, mixup=0.8, cutmix=1.0),
    data=DataConfig(image_size=224),
    optim=OptimConfig(
        lr=4e-3,
        betas=(0.9, 0.999),
        weight_decay=0.05,
        batch_size=4096,
        epochs=300,
        warmup_epochs=20.0,
        min_lr=1e-6,
    ),
    train=TrainConfig(ema_decay=EMA, micro_batch=128),
    source="ConvNeXt, table 5",
)
ISOTROPIC = replace(
    SCRATCH,
    optim=replace(SCRATCH.optim, warmup_epochs=50.0),
    source="ConvNeXt, table 5 and section 3.3",
)
IN22K = replace(
    SCRATCH,
    optim=replace(SCRATCH.optim, epochs=90, warmup_epochs=5.0),
    train=replace(SCRATCH.train, ema_decay=None, micro_batch=32),
    notes="21,841 classes; the folder needs no validation images",
)
# Table 6: fine-tuning.
FINE_TUNE = replace(
    SCRATCH,
    task=ClassifyConfig(smoothing=0.1, mixup=0.0, cutmix=0.0, head_init_scale=0.001),
    optim=replace(
        SCRATCH.optim,
        lr=5e-5,
        weight_decay=1e-8,
        batch_size=512,
        epochs=30,
        warmup_epochs=0.0,
        layer_decay_rule="group",
    ),
    train=replace(SCRATCH.train, ema_decay=None, micro_batch=32),
    source="ConvNeXt, table 6",
)


def _named(
    base: Recipe,
    name: str,
    model: str,
    drop_path: float,
    top1: float | None,
    cost: str,
    *,
    pretrained: str = "",
    layer_decay: float = 1.0,
    size: int = 224,
    ema: float | None = None,
    layer_scale: float | None = None,
) -> Recipe:
    return replace(
        base,
        name=name,
        task=replace(
            base.task,
            model=model,
            pretrained=pretrained,
            drop_path_rate=drop_path,
            layer_scale_init_value=layer_scale,
        ),
        data=replace(base.data, image_size=size),
        optim=replace(base.optim, layer_decay=layer_decay),
        train=replace(base.train, ema_decay=base.train.ema_decay if ema is None else ema),
        expected_top1=top1,
        cost=cost,
    )


# size: drop path, top-1, devices
_IN1K = {
    "tiny": (0.1, 82.1, "32 V100 x 128 images"),
    "small": (0.4, 83.1, "32 V100 x 128 images"),
    "base": (0.5, 83.8, "32 V100 x 128 images"),
    "large": (0.5, 84.3, "64 V100 x 64 images"),
}
_ISOTROPIC = {
    "small": (0.1, 0.0, 79.7, "32 V100 x 128 images"),
    "base": (0.2, 0.0, 82.0, "32 V100 x 128 images"),
    "large": (0.5, 1e-6, 82.6, "64 V100 x 64 images"),
}
_IN22K = {"tiny": 0.0, "small": 0.0, "base": 0.1, "large": 0.1, "xlarge": 0.2}
# B starts from the last weights, L from their average; the tags say which.
_IN1K_384 = {"base": (0.8, 85.1, "in1k_no_ema"), "large": (0.95, 85.5, "in1k")}
# size: drop path, top-1 at 224 and 384
_IN22K_FT = {
    "tiny": (0.0, 82.9, 84.1),
    "small": (0.1, 84.6, 85.8),
    "base": (0.2, 85.8, 86.8),
    "large": (0.3, 86.6, 87.5),
    "xlarge": (0.4, 87.0, 87.8),
}


def _recipes() -> list[Recipe]:
    found = []
    for size, (drop_path, top1, cost) in _IN1K.items():
        name = f"convnext_{size}"
        found.append(_named(SCRATCH, f"{name}_in1k", name, drop_path, top1, cost))
    for size, (drop_path, scale, top1, cost) in _ISOTROPIC.items():
        name = f"convnext_isotropic_{size}"
        found.append(
            _named(ISOTROPIC, f"{name}_in1k", name, drop_path, top1, cost, layer_scale=scale)
        )
    for size, drop_path in _IN22K.items():
        name = f"convnext_{size}"
        cost = "128 V100 x 32 images"
        found.append(_named(IN22K, f"{name}_in22k", name, drop_path, None, cost))
    for size, (drop_path, top1, tag) in _IN1K_384.items():
        name = f"convnext_{size}"
        found.append(
            _named(
                FINE_TUNE,
                f"{name}_in1k_384",
                name,
                drop_path,
                top1,
                "16 V100 x 32 images",
                pretrained=tag,
                layer_decay=0.7,
                size=384,
            )
        )
    for size, (drop_path, top1_224, top1_384) in _IN22K_FT.items():
        name = f"convnext_{size}"
        for pixels, top1 in ((224, top1_224), (384, top1_384)):
            suffix = "" if pixels == 224 else f"_{pixels}"
            found.append(
                _named(
                    FINE_TUNE,
                    f"{name}_in22k_ft_in1k{suffix}",
                    name,
                    drop_path,
                    top1,
                    "16 to 64 V100",
                    pretrained="in22k",
                    layer_decay=0.8,
                    size=pixels,
                    ema=EMA if size == "xlarge" else None,
                )
            )
    return found


RECIPES = {recipe.name: recipe for recipe in _recipes()}
