"""Detection recipes: table 3 and its settings as they stand, and what is left of them on less data.

Sources: Liu et al., ConvNeXt, section 4, table 3, appendix A.3 and the published configurations;
Woo et al., ConvNeXt V2, table 6 and its appendix.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from convnext.data.config import DetectionAugmentConfig, DetectionDataConfig
from convnext.data.detection.summary import DetectionSummary
from convnext.recipes.recipe import Recipe
from convnext.tasks.detect import DetectConfig
from convnext.train.config import OptimConfig, TrainConfig

__all__ = ["RECIPES", "fit_detection"]

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
    # Not published: Mask R-CNN of the other sizes, with the rates of the cascade of that size.
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


def _recipes() -> dict[str, Recipe]:
    found = [_published(row, schedule) for row in _ROWS for schedule in SCHEDULES]
    named = {recipe.name: recipe for recipe in found}
    # By its plain name a detector is fit for the data; where there is much, as published.
    plain = {
        row.model: replace(_published(row, "3x"), name=row.model)
        for row in reversed(_ROWS)  # of two rows the first
    }
    return named | {model: plain[model] for model in dict.fromkeys(row.model for row in _ROWS)}


RECIPES = _recipes()

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
    if n >= COCO_SCALE:
        recipe = recipe or RECIPES[model or "mask_rcnn_convnext_tiny"]
        task = replace(recipe.detect[0], masks=summary.has_masks)
        say(f"much data: {recipe.name} as published")
        return replace(recipe, task=task, data=replace(recipe.data, path=data.path)), reasons
    size = image_size or _size(summary, cpu, say)
    task = _detector(summary, recipe, model, pretrained, cpu, size, say)
    batch = batch_size or min(8 if cpu else BATCH, n)
    per_epoch = max(1, n // batch)
    epochs = epochs or min(300, max(12, round((CPU_STEPS if cpu else GPU_STEPS) / per_epoch)))
    say(f"{epochs} epochs of {per_epoch} steps with batches of {batch}")
    lr, decay = (2e-4, 0.9) if pretrained else (5e-4, 1.0)
    say(f"learning rate {lr:.3g}, falling along a cosine" + (", lower below" * bool(pretrained)))
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
            ema_decay=0.998,
            ema_warmup=True,
            micro_batch=None if cpu else 4,
            eval_every_epochs=max(1, epochs // 10),
            sync_batch_norm=True,
        ),
        source="chosen for the data",
        notes="; ".join(reasons),
    ), reasons


def _size(summary: DetectionSummary, cpu: bool, say: Callable[[str], None]) -> int:
    """Short side: as large as images and time allow, so that small objects have some pixels."""
    limit = 320 if cpu else 800
    size = min(limit, max(128, summary.median_short_side))
    if summary.median_short_side * 12 / max(summary.small_object, 1) > size:
        size = min(2 * limit, summary.median_short_side)  # its small objects need 12 pixels
    size = round(size / 32) * 32
    say(
        f"short side {size} px (images have {summary.median_short_side}, small objects "
        f"{summary.small_object:.0f})"
    )
    return size


def _detector(
    summary: DetectionSummary,
    recipe: Recipe | None,
    model: str,
    pretrained: str,
    cpu: bool,
    size: int,
    say: Callable[[str], None],
) -> DetectConfig:
    ratio = size / summary.median_short_side
    name = model or (recipe.detect[0].model if recipe else "")
    args: dict[str, object] = {}
    if not name:
        name = "mask_rcnn_convnextv2_atto" if cpu else "mask_rcnn_convnext_tiny"
        say(f"{name}, which trains in reasonable time on {'a CPU' if cpu else 'a GPU'}")
        if cpu:
            args = {
                "fpn_dim": 96,
                "fc_dim": 256,
                "mask_convs": 2,
                "roi_sampled": 128,
                "rpn_per_level": [500, 300],
                "rpn_proposals": [400, 200],
            }
    small = summary.small_object * ratio
    scale = next((s for s in (8.0, 4.0) if 4 * s <= 2 * small), 2.0)
    if scale != 8.0:
        args["anchor_scale"] = scale
        say(f"anchors from {4 * scale:.0f} px on, because small objects have {small:.0f} px")
    if summary.most_objects > 80:
        args["max_detections"] = 2 * summary.most_objects
        say(f"up to {2 * summary.most_objects} detections, an image has {summary.most_objects}")
    drop_path = 0.1 if cpu else 0.2
    return DetectConfig(
        model=name,
        pretrained=pretrained,
        masks=summary.has_masks,
        drop_path_rate=drop_path,
        model_args=args,
    )
