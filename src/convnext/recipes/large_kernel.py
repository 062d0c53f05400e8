"""Recipes of the large-kernel networks: SLaK, RepLKNet, and ConvNeXt students of SLaK teachers.

Sources: Liu et al., "More ConvNets in the 2020s" (SLaK), ICLR 2023; Ding et al., "Scaling Up Your
Kernels to 31x31" (RepLKNet), CVPR 2022; Huang et al., "Are Large Kernels Better Teachers than
Transformers for ConvNets?", ICML 2023; the command lines of their repositories. All three start
from ConvNeXt's recipe; what is not stated here is ConvNeXt's.
"""

from dataclasses import replace
from typing import Any, NamedTuple

from convnext.data.config import DataConfig
from convnext.recipes.imagenet import IN22K, SCRATCH
from convnext.recipes.recipe import Recipe
from convnext.train.config import SparsityConfig

__all__ = ["RECIPES"]

# 40 % of the weights are zero. S and B change them oftener, and fewer at a time.
SPARSE_TINY = SparsityConfig(sparsity=0.4, update_every=2000, prune_rate=0.5)
SPARSE_LARGER = SparsityConfig(sparsity=0.4, update_every=100, prune_rate=0.3)

# size: drop path, sparsity, top-1 after 300 and 120 epochs, micro-batch, devices
_SLAK: dict[str, tuple[float, SparsityConfig, tuple[float, float | None], int, str]] = {
    "tiny": (0.1, SPARSE_TINY, (82.5, 81.6), 128, "4 A100 x 128 images x 8 accumulated"),
    "small": (0.4, SPARSE_LARGER, (83.8, None), 64, "8 V100 x 64 images x 8 accumulated"),
    "base": (0.5, SPARSE_LARGER, (84.0, None), 32, "16 V100 x 32 images x 8 accumulated"),
}


def _slak(size: str, epochs: int) -> Recipe:
    drop_path, sparsity, (long, short), micro_batch, cost = _SLAK[size]
    model = f"slak_{size}"
    return replace(
        SCRATCH,
        name=f"{model}_in1k" + ("" if epochs == 300 else f"_{epochs}ep"),
        task=replace(SCRATCH.classify, model=model, drop_path_rate=drop_path),
        optim=replace(SCRATCH.optim, epochs=epochs, sparsity=sparsity),
        train=replace(SCRATCH.train, micro_batch=micro_batch, sync_batch_norm=True),
        source="SLaK, README",
        expected_top1=long if epochs == 300 else short,
        cost=cost,
        notes="published parameters and FLOPs count the non-zero weights only"
        + ("" if epochs == 300 or short else "; this length was published for T only"),
    )


_KERNELS = {
    7: (7, 7, 7, 7),
    31: (31, 29, 27, 13),
    51: (51, 49, 47, 13),
    61: (61, 59, 57, 13),
}
# How a large kernel is built, step by step.
_STYLES: dict[str, tuple[dict[str, Any], SparsityConfig, str]] = {
    "naive": (
        {"small_kernel": 0, "decomposed": False, "width_factor": 1.0},
        SparsityConfig(),
        "ConvNeXt-T with larger kernels",
    ),
    "square": (
        {"small_kernel": 5, "decomposed": False, "width_factor": 1.0},
        SparsityConfig(),
        "a 5x5 kernel beside the large one, a batch norm after each, as RepLKNet",
    ),
    "strips": (
        {"small_kernel": 5, "decomposed": True, "width_factor": 1.0},
        SparsityConfig(),
        "two strips and a 5x5 kernel in place of the large one",
    ),
    "sparse": (
        {"small_kernel": 5, "decomposed": True, "width_factor": 1.0},
        SPARSE_TINY,
        "strips, 40 % of the weights zero",
    ),
    "wide": (
        {"small_kernel": 5, "decomposed": True, "width_factor": 1.3},
        SPARSE_TINY,
        "strips, 40 % of the weights zero, 1.3 times the width: SLaK-T",
    ),
}
# Top-1 by kernel and style, 120 epochs. The wide 51 is `slak_tiny_in1k_120ep`.
_TOP1 = {
    (7, "naive"): 81.0,
    (7, "strips"): 81.0,
    (7, "sparse"): 80.0,
    (7, "wide"): 81.1,
    (31, "naive"): 80.5,
    (31, "square"): 81.5,
    (31, "strips"): 81.3,
    (31, "sparse"): 80.4,
    (31, "wide"): 81.5,
    (51, "naive"): 80.4,
    (51, "square"): 81.3,
    (51, "strips"): 81.5,
    (51, "sparse"): 80.5,
    (61, "naive"): 80.3,
    (61, "square"): 81.3,
    (61, "strips"): 81.4,
    (61, "sparse"): 80.4,
    (61, "wide"): 81.5,
}


def _ablation(kernel: int, style: str) -> Recipe:
    fields, sparsity, words = _STYLES[style]
    base = _slak("tiny", 120)
    return replace(
        base,
        name=f"slak_kernel_{kernel}_{style}_120ep",
        task=replace(base.classify, model_args={"kernel_size": list(_KERNELS[kernel]), **fields}),
        optim=replace(base.optim, sparsity=sparsity),
        source="SLaK, kernel study",
        expected_top1=_TOP1[kernel, style],
        notes=words,
    )


REPLKNET = replace(
    SCRATCH,
    task=replace(SCRATCH.classify, model="replknet_31b", drop_path_rate=0.5),
    optim=replace(SCRATCH.optim, batch_size=2048, warmup_epochs=10.0),
    train=replace(SCRATCH.train, micro_batch=64),
    source="RepLKNet, README",
    cost="32 GPUs x 64 images",
)
REPLKNET_FINE_TUNE = replace(
    REPLKNET,
    task=replace(REPLKNET.classify, mixup=0.0, cutmix=0.0),
    optim=replace(
        REPLKNET.optim,
        lr=4e-4,
        weight_decay=1e-8,
        epochs=30,
        warmup_epochs=1.0,
        layer_decay=0.7,
        layer_decay_rule="group",
    ),
)


class _FineTune(NamedTuple):
    name: str
    model: str
    pretrained: str
    drop_path: float
    size: int
    batch: int
    devices: int
    min_lr: float
    top1: float
    notes: str = ""


_OWN = "starts from your own run of {}; --task.pretrained FILE takes the published weights"
XL_WEIGHTS = "RepLKNet-XL_MegData73M.pth"
_FINE_TUNES = (
    _FineTune("31b_in1k_384", "31b", "31b_in1k", 0.8, 384, 1024, 32, 1e-6, 84.8),
    _FineTune("31b_in22k_ft_in1k", "31b", "31b_in22k", 0.2, 224, 512, 16, 1e-6, 85.2),
    _FineTune("31b_in22k_ft_in1k_384", "31b", "31b_in22k", 0.3, 384, 512, 32, 3e-4, 86.0),
    _FineTune("31l_in22k_ft_in1k_384", "31l", "31l_in22k", 0.3, 384, 512, 32, 3e-4, 86.6),
    _FineTune(
        *("xl_megdata73m_ft_in1k_320", "xl", "", 0.3, 320, 512, 32, 3e-4, 87.8),
        notes="the 73 million images of the pre-training are private: --task.pretrained names the "
        "published weights; only size, mean and std of this fine-tuning were published, the other "
        "values are those of 31L",
    ),
)


def _replknet_22k(size: str) -> Recipe:
    return replace(
        IN22K,
        name=f"replknet_{size}_in22k",
        cost="128 GPUs x 32 images",
        task=replace(IN22K.classify, model=f"replknet_{size}", drop_path_rate=0.1),
        source="RepLKNet, README",
    )


def _replknet_fine_tune(row: _FineTune) -> Recipe:
    base, own = REPLKNET_FINE_TUNE, f"replknet_{row.pretrained}"
    data = DataConfig(image_size=row.size)
    if not row.pretrained:
        data = replace(data, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return replace(
        base,
        name=f"replknet_{row.name}",
        task=replace(
            base.classify,
            model=f"replknet_{row.model}",
            pretrained=f"runs/{own}/weights" if row.pretrained else XL_WEIGHTS,
            drop_path_rate=row.drop_path,
        ),
        data=data,
        optim=replace(base.optim, batch_size=row.batch, min_lr=row.min_lr),
        train=replace(base.train, micro_batch=row.batch // row.devices),
        expected_top1=row.top1,
        cost=f"{row.devices} GPUs x {row.batch // row.devices} images",
        notes=row.notes or _OWN.format(own),
    )


def _student(size: str, top1: float) -> Recipe:
    """ConvNeXt's own recipe but for the teacher, the drop path, and no averaged weights."""
    teacher = f"slak_{size}_in1k"
    return replace(
        SCRATCH,
        name=f"convnext_{size}_slak_distilled_in1k",
        task=replace(
            SCRATCH.classify,
            model=f"convnext_{size}",
            drop_path_rate=0.1,
            teacher=f"runs/{teacher}",
            teacher_gamma=1.0,
            teacher_temperature=1.0,
            label_weight=0.0,
        ),
        train=replace(SCRATCH.train, ema_decay=None, micro_batch=64),
        source="Are Large Kernels Better Teachers, code and README",
        expected_top1=top1,
        cost="not published; each step also runs the teacher forward",
        notes=f"the teacher is your own run of {teacher}, or --task.teacher FILE; the published "
        "command says --T 3, which its code gives to plain distillation only: NKD runs at 1, "
        "without a loss against the labels",
    )


RECIPES = {
    recipe.name: recipe
    for recipe in [
        *(_slak(size, epochs) for epochs in (300, 120) for size in _SLAK),
        *(_ablation(kernel, style) for kernel, style in _TOP1),
        replace(REPLKNET, name="replknet_31b_in1k", expected_top1=83.5),
        *(_replknet_22k(size) for size in ("31b", "31l")),
        *(_replknet_fine_tune(row) for row in _FINE_TUNES),
        *(_student(size, top1) for size, top1 in (("tiny", 83.1), ("small", 84.3))),
    ]
}
