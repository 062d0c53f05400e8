"""ConvNeXt's recipes on ImageNet.

Source: Liu et al., "A ConvNet for the 2020s", CVPR 2022: tables 5 and 6; the command lines of the
official repository where a table is silent. Expected accuracies are those of the catalogue.
Two corrections: the initial weights have std 0.02 (table 5 prints 0.2; the networks here do it
right), and layer scale is off for isotropic S and B only.
"""

from dataclasses import replace

from convnext.data.config import DataConfig
from convnext.recipes.recipe import Recipe
from convnext.tasks.classify import ClassifyConfig
from convnext.train.config import OptimConfig, TrainConfig
from convnext.weights.catalogue import published_top1

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
    cost: str,
    *,
    tag: str,
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
            base.classify,
            model=model,
            pretrained=pretrained,
            drop_path_rate=drop_path,
            layer_scale_init_value=layer_scale,
        ),
        data=replace(base.images, image_size=size),
        optim=replace(base.optim, layer_decay=layer_decay),
        train=replace(base.train, ema_decay=base.train.ema_decay if ema is None else ema),
        expected_top1=published_top1(model, tag),
        cost=cost,
    )


# size: drop path, devices
_IN1K = {
    "tiny": (0.1, "32 V100 x 128 images"),
    "small": (0.4, "32 V100 x 128 images"),
    "base": (0.5, "32 V100 x 128 images"),
    "large": (0.5, "64 V100 x 64 images"),
}
# size: drop path, start of the layer scale, devices
_ISOTROPIC = {
    "small": (0.1, 0.0, "32 V100 x 128 images"),
    "base": (0.2, 0.0, "32 V100 x 128 images"),
    "large": (0.5, 1e-6, "64 V100 x 64 images"),
}
_IN22K = {"tiny": 0.0, "small": 0.0, "base": 0.1, "large": 0.1, "xlarge": 0.2}
# B starts from the last weights, L from their average; the tags say which.
_IN1K_384 = {"base": (0.8, "in1k_no_ema"), "large": (0.95, "in1k")}
_IN22K_FT = {"tiny": 0.0, "small": 0.1, "base": 0.2, "large": 0.3, "xlarge": 0.4}


def _recipes() -> list[Recipe]:
    found = []
    for size, (drop_path, cost) in _IN1K.items():
        name = f"convnext_{size}"
        found.append(_named(SCRATCH, f"{name}_in1k", name, drop_path, cost, tag="in1k"))
    for size, (drop_path, scale, cost) in _ISOTROPIC.items():
        name = f"convnext_isotropic_{size}"
        found.append(
            _named(ISOTROPIC, f"{name}_in1k", name, drop_path, cost, tag="in1k", layer_scale=scale)
        )
    for size, drop_path in _IN22K.items():
        name = f"convnext_{size}"
        cost = "128 V100 x 32 images"
        found.append(_named(IN22K, f"{name}_in22k", name, drop_path, cost, tag="in22k"))
    for size, (drop_path, start) in _IN1K_384.items():
        name = f"convnext_{size}"
        found.append(
            _named(
                FINE_TUNE,
                f"{name}_in1k_384",
                name,
                drop_path,
                "16 V100 x 32 images",
                tag="in1k_384",
                pretrained=start,
                layer_decay=0.7,
                size=384,
            )
        )
    for size, drop_path in _IN22K_FT.items():
        name = f"convnext_{size}"
        for pixels, tag in ((224, "in22k_ft_in1k"), (384, "in22k_ft_in1k_384")):
            found.append(
                _named(
                    FINE_TUNE,
                    f"{name}_{tag}",
                    name,
                    drop_path,
                    "16 to 64 V100",
                    tag=tag,
                    pretrained="in22k",
                    layer_decay=0.8,
                    size=pixels,
                    ema=EMA if size == "xlarge" else None,
                )
            )
    return found


RECIPES = {recipe.name: recipe for recipe in _recipes()}
