"""Detection recipes: table 3 and its settings as they stand, and what is left of them on less data.

Sources: Liu et al., ConvNeXt, section 4, table 3, appendix A.3 and the published configurations;
Woo et al., ConvNeXt V2, table 6 and its appendix.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from convnext.data.config import DetectionAugmentConfig, DetectionDataConfig
from convnext.data.detection.summary import DetectionSummary
from convnext.models.mask_rcnn import detector_config
from convnext.recipes.body import body_from_scratch
from convnext.recipes.recipe import Recipe
from convnext.tasks.detect import DetectConfig
from convnext.train.config import OptimConfig, TrainConfig

__all__ = ["FITTED", "RECIPES", "fit_detection"]

COCO_SCALE = 50_000  # images from which on the published recipes are taken as they are
COCO_IMAGES = 117_266  # training images with objects
BATCH = 16
WARMUP_STEPS = 500
# (epochs, shares of the run after which the learning rate falls)
SCHEDULES = {"3x": (36, (27 / 36, 33 / 36)), "1x": (12, (8 / 12, 11 / 12))}


class _Row(NamedTuple):
    """A published detector; of several rows for a size the name tells the weights."""

    model: str
    suffix: str
    pretrained: str
    drop_path: float
    lr: float
    layer_decay: float
    ap: tuple[float, float] | None
    batch: int = BATCH
    lsj: bool = False


_1K, _22K = "in1k_no_ema", "in22k"
_ROWS = (
    _Row("mask_rcnn_convnext_tiny", "", _1K, 0.4, 1e-4, 0.95, (46.2, 41.7)),
    _Row("cascade_mask_rcnn_convnext_tiny", "", _1K, 0.4, 2e-4, 0.7, (50.4, 43.7)),
    _Row("cascade_mask_rcnn_convnext_small", "", _1K, 0.6, 2e-4, 0.7, (51.9, 45.0)),
    _Row("cascade_mask_rcnn_convnext_base", "", _1K, 0.7, 2e-4, 0.8, (52.7, 45.6)),
    _Row("cascade_mask_rcnn_convnext_base", "_in22k", _22K, 0.6, 1e-4, 0.8, (54.0, 46.9)),
    _Row("cascade_mask_rcnn_convnext_large", "_in22k", _22K, 0.7, 1e-4, 0.7, (54.8, 47.6)),
    _Row("cascade_mask_rcnn_convnext_xlarge", "_in22k", _22K, 0.8, 1e-4, 0.7, (55.2, 47.7)),
    # Not published: Mask R-CNN of the other sizes, with the rates of T and their own drop path.
    _Row("mask_rcnn_convnext_small", "", _1K, 0.6, 1e-4, 0.95, None),
    _Row("mask_rcnn_convnext_base", "", _1K, 0.7, 1e-4, 0.95, None),
    _Row("mask_rcnn_convnext_large", "_in22k", _22K, 0.7, 1e-4, 0.95, None),
    _Row("mask_rcnn_convnext_xlarge", "_in22k", _22K, 0.8, 1e-4, 0.95, None),
    # V2's paper gives ranges: layer decay 0.9 or 0.95, drop path 0.2 to 0.5.
    _Row("mask_rcnn_convnextv2_base", "", "fcmae_ft_in1k", 0.3, 1e-4, 0.95, (52.9, 46.6), 32, True),
    _Row("mask_rcnn_convnextv2_large", "", "fcmae_ft_in1k", 0.4, 1e-4, 0.9, (54.4, 47.7), 32, True),
    _Row("mask_rcnn_convnextv2_huge", "", "fcmae_ft_in1k", 0.5, 1e-4, 0.9, (55.7, 48.9), 32, True),
)


def _published(row: _Row, schedule: str) -> Recipe:
    epochs, drops = SCHEDULES[schedule]
    per_epoch = COCO_IMAGES // row.batch
    cascade = row.model.startswith("cascade")
    published = row.ap if schedule == "3x" else None
    return Recipe(
        name=f"{row.model}{row.suffix}_{schedule}",
        task=DetectConfig(
            model=row.model,
            pretrained=row.pretrained,
            drop_path_rate=row.drop_path,
            model_args={"soft_nms": True} if row.lsj else {},
        ),
        data=DetectionDataConfig(
            augment=DetectionAugmentConfig(policy="lsj" if row.lsj else "multiscale")
        ),
        optim=OptimConfig(
            lr=row.lr,
            min_lr=0.0,
            batch_size=row.batch,
            epochs=epochs,
            warmup_epochs=WARMUP_STEPS / per_epoch,
            schedule="steps",
            drops=drops,
            layer_decay=row.layer_decay,
        ),
        train=TrainConfig(ema_decay=None, micro_batch=2, sync_batch_norm=cascade),
        source=("ConvNeXt V2, table 6" if row.lsj else "ConvNeXt, table 3 and appendix A.3")
        + ("" if published else ", at another length or size"),
        expected_ap=published,
        cost="8 GPUs x 2 images" if not row.lsj else "",
        notes="starts from weights that are not averaged"
        + ("; layer decay and drop path lie within the paper's ranges" if row.lsj else ""),
    )


_PUBLISHED = {
    recipe.name: recipe
    for recipe in (_published(row, schedule) for row in _ROWS for schedule in SCHEDULES)
}
# By its plain name a detector is fit for the data; where there is much, it is trained as published.
_PLAIN = {
    row.model: replace(_published(row, "3x"), name=row.model)
    for row in reversed(_ROWS)  # of two rows the first
}
RECIPES = _PUBLISHED | {row.model: _PLAIN[row.model] for row in _ROWS}
FITTED = tuple(_PLAIN)  # names of the recipes that are fit to the data

CPU_STEPS, GPU_STEPS = 1_500, 12_000


def fit_detection(
    summary: DetectionSummary,
    data: DetectionDataConfig,
    *,
    recipe: Recipe | None = None,
    device: str = "cpu",
    model: str = "",
    pretrained: str = "",
    image_size: int | None = None,
    batch_size: int | None = None,
    epochs: int | None = None,
) -> tuple[Recipe, list[str]]:
    """A recipe fit for a detection set, and one sentence for each decision.

    Args:
        summary: Counts and sizes of the data.
        data: Where the data are.
        recipe: The named recipe to fit; None chooses the detector too.
        device: "cpu", or an accelerator's type, for which larger networks and more steps are
            chosen.
        model: Name of the detector, if the user has chosen it.
        pretrained: Weights to start from; "" = from scratch.
        image_size: Short side in pixels, when the user decides it; likewise the next two.
        batch_size: Images a step.
        epochs: Passes over the data.
    """
    reasons: list[str] = []
    say: Callable[[str], None] = reasons.append
    n, cpu = summary.num_images, device == "cpu"
    say(
        f"{n:,} training images with {summary.num_objects:,} objects of {summary.num_classes} "
        f"classes, {'with' if summary.has_masks else 'without'} masks"
    )
    chosen = model or (recipe.detect[0].model if recipe else "")
    if n >= COCO_SCALE or (recipe is not None and recipe.name not in _PLAIN):
        recipe = _as_published(recipe or _nearest(chosen, pretrained), summary, data, image_size)
        say(f"{recipe.name} as published")
        return recipe, reasons
    size = image_size or _size(summary, cpu, say)
    say("from scratch" if not pretrained else f"from {pretrained} weights")
    task = _detector(summary, chosen, pretrained, cpu, size, say)
    batch = batch_size or min(8 if cpu else BATCH, n)
    per_epoch = max(1, n // batch)
    epochs = epochs or min(300, max(12, round((CPU_STEPS if cpu else GPU_STEPS) / per_epoch)))
    say(f"{epochs} epochs of {per_epoch} steps with batches of {batch}")
    decay = 0.9 if pretrained and ":" not in chosen else 1.0  # the layers of timm are not known
    lr = 2e-4 if pretrained else 5e-4
    say(f"learning rate {lr:.3g}, falling along a cosine" + ", lower below" * (decay < 1))
    say("left-right flips; where nothing has an up (microscopy): --data.augment.vflip 0.5")
    return Recipe(
        name=recipe.name if recipe else "auto",
        task=task,
        data=replace(data, min_size=size, max_size=round(size * 5 / 3), masks=summary.has_masks),
        optim=OptimConfig(
            lr=lr,
            min_lr=0.0,
            batch_size=batch,
            epochs=epochs,
            warmup_epochs=min(epochs, round(100 / per_epoch, 3)),
            layer_decay=decay,
            clip_grad=1.0,
        ),
        train=TrainConfig(
            ema_decay=0.99 if cpu else 0.998,
            ema_warmup=True,
            micro_batch=None if cpu else 4,
            eval_every_epochs=max(1, epochs // 10),
            sync_batch_norm=True,
        ),
        source="chosen for the data",
        notes="; ".join(reasons),
    ), reasons


def _as_published(
    recipe: Recipe, summary: DetectionSummary, data: DetectionDataConfig, image_size: int | None
) -> Recipe:
    """A published recipe on these data; only masks are left out where there are none."""
    task, published = recipe.detect
    data = replace(data, augment=published.augment)
    if not image_size:
        data = replace(data, min_size=published.min_size, max_size=published.max_size)
    return replace(recipe, task=replace(task, masks=task.masks and summary.has_masks), data=data)


def _nearest(model: str, pretrained: str) -> Recipe:
    """The published recipe of a detector; of one without, that of the same system on T."""
    cascade = model.startswith("cascade_")
    usual = "cascade_mask_rcnn_convnext_tiny" if cascade else "mask_rcnn_convnext_tiny"
    recipe = _PLAIN.get(model or usual)
    if recipe is None:
        base = _PLAIN[usual]
        rate = 0.0 if ":" in model else base.detect[0].drop_path_rate
        task = replace(base.detect[0], model=model, pretrained=pretrained, drop_path_rate=rate)
        decay = 1.0 if ":" in model else base.optim.layer_decay
        recipe = replace(base, name=model, task=task, expected_ap=None)
        recipe = replace(recipe, optim=replace(recipe.optim, layer_decay=decay))
    if pretrained:
        recipe = replace(recipe, task=replace(recipe.detect[0], pretrained=pretrained))
    return recipe


def _size(summary: DetectionSummary, cpu: bool, say: Callable[[str], None]) -> int:
    """Short side: as large as images and time allow, so that small objects have some pixels."""
    limit, side = (320 if cpu else 800), summary.median_short_side
    size = min(limit, max(128, side))
    if size * summary.small_object < 12 * side:  # its small objects need 12 pixels
        size = max(size, min(2 * limit, side))
    size = round(size / 32) * 32
    say(f"short side {size} px (images have {side}, small objects {summary.small_object:.0f})")
    return size


def _detector(
    summary: DetectionSummary,
    name: str,
    pretrained: str,
    cpu: bool,
    size: int,
    say: Callable[[str], None],
) -> DetectConfig:
    args: dict[str, object] = {}
    proposals, per_level, sampled = (1000, 1000), (2000, 1000), 512
    if not name:
        name = "mask_rcnn_convnextv2_atto" if cpu else "mask_rcnn_convnext_tiny"
        say(f"{name}, which trains in reasonable time on {'a CPU' if cpu else 'a GPU'}")
        if cpu:
            args = {"fpn_dim": 96, "fc_dim": 256, "mask_convs": 2}
            proposals, per_level, sampled = (400, 200), (500, 300), 128
    if 2 * summary.most_objects > proposals[1]:
        most = 2 * summary.most_objects
        proposals = (max(proposals[0], most), most)
        per_level, sampled = (2 * most, most), max(sampled, most)
        say(f"{most} proposals, because an image has {summary.most_objects} objects")
    if summary.most_objects > 50:
        args["max_detections"] = 2 * summary.most_objects
        say(f"up to {2 * summary.most_objects} detections; COCO counts 100 an image and class")
    usual = ((1000, 1000), (2000, 1000), 512)
    if (proposals, per_level, sampled) != usual:
        args |= {"rpn_proposals": list(proposals), "rpn_per_level": list(per_level)}
        args["roi_sampled"] = sampled
    scale = _anchor_scale(summary, size / summary.median_short_side, say)
    if scale != 8.0:
        args["anchor_scale"] = scale
    drop_path = 0.0 if ":" in name else 0.1 if cpu else 0.2
    return DetectConfig(
        model=name,
        pretrained=pretrained,
        masks=summary.has_masks,
        drop_path_rate=drop_path,
        model_args=args,
        body_args={} if pretrained else body_from_scratch(detector_config(name).backbone),
    )


def _anchor_scale(summary: DetectionSummary, ratio: float, say: Callable[[str], None]) -> float:
    """Side of the anchors in strides: from 4 times it on, up to 64 times it.

    The smallest anchors are at most twice as large as small objects, unless the largest ones would
    then be less than 0.55 of large objects, which none would learn (their overlap is below 0.3).
    """
    small, large = summary.small_object * ratio, summary.large_object * ratio
    wanted = next((s for s in (8.0, 4.0) if 4 * s <= 2 * small), 2.0)
    scale = max(wanted, next((s for s in (2.0, 4.0) if 64 * s >= 0.55 * large), 8.0))
    if scale != 8.0:
        say(f"anchors of {4 * scale:.0f} to {64 * scale:.0f} px: objects have {small:.0f} and more")
    if scale > wanted:
        say(f"no smaller ones, because large objects have {large:.0f} px")
    return scale
