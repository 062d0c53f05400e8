"""Segmentation recipes: table 4 and its settings as they stand, and what is left of them on less.

Sources: Liu et al., ConvNeXt, section 4, table 4, appendix A.3 and the published configurations;
Woo et al., ConvNeXt V2, table 7 and its appendix; Liu et al., SLaK, table 2 and the published
configurations.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from convnext.data.config import LONG_SIDES, SegmentationAugmentConfig, SegmentationDataConfig
from convnext.data.segmentation.summary import SegmentationSummary
from convnext.models.upernet import segmenter_config
from convnext.recipes.body import body_from_scratch
from convnext.recipes.recipe import Recipe
from convnext.tasks.segment import SegmentConfig
from convnext.train.config import OptimConfig, TrainConfig

__all__ = ["FITTED", "RECIPES", "GivenSizes", "fit_segmentation"]

ADE_SCALE = 10_000  # images from which on the published recipes are taken as they are
BATCH = 16
STEPS, WARMUP_STEPS = 160_000, 1_500


@dataclass(frozen=True, kw_only=True)
class GivenSizes:
    """Sizes in pixels that the user gives; None leaves one to the recipe.

    One that is given decides those after it that are not: windows are as large as the crop, unless
    images are seen at once, and follow each other by two thirds of a window. A stride asks for
    windows.

    Attributes:
        crop_size: side of the training crop.
        window: side of the window of evaluation, 0 = the whole image at once.
        stride: from one window to the next.
    """

    crop_size: int | None = None
    window: int | None = None
    stride: int | None = None

    def put_in(self, data: SegmentationDataConfig) -> SegmentationDataConfig:
        """The configuration with these sizes.

        Raises:
            ValueError: the stride is larger than the window.
        """
        crop = data.crop_size if self.crop_size is None else self.crop_size
        window, stride = self.window, self.stride
        if window is None:
            window = crop if data.window and crop != data.crop_size else data.window
            if stride is not None:
                window = window or crop
        if stride is None:
            stride = _stride(window) if window and window != data.window else data.stride
        return replace(data, crop_size=crop, window=window, stride=stride)


def _stride(window: int) -> int:
    """Pixels from one window to the next, as published: of 512 and 640 they are 341 and 426."""
    return max(1, window * 2 // 3)


class _Row(NamedTuple):
    """A published network; of several rows for a size the name tells the weights."""

    model: str
    suffix: str
    pretrained: str
    size: int
    drop_path: float
    lr: float
    layer_decay: float
    miou: tuple[float | None, float | None]  # single-scale, multi-scale
    source: str = "ConvNeXt, table 4 and appendix A.3"


_1K, _22K = "in1k_no_ema", "in22k"
_V2_1K, _V2_22K = "fcmae_ft_in1k", "fcmae_ft_in22k_in1k_512"
_V2 = "ConvNeXt V2, table 7"
_SLAK = "SLaK, table 2"
_ROWS = (
    _Row("upernet_convnext_tiny", "", _1K, 512, 0.4, 1e-4, 0.9, (46.0, 46.7)),
    _Row("upernet_convnext_small", "", _1K, 512, 0.3, 1e-4, 0.9, (48.7, 49.6)),
    _Row("upernet_convnext_base", "", _1K, 512, 0.4, 1e-4, 0.9, (49.1, 49.9)),
    _Row("upernet_convnext_base", "_in22k", _22K, 640, 0.4, 1e-4, 0.9, (52.6, 53.1)),
    _Row("upernet_convnext_large", "_in22k", _22K, 640, 0.4, 1e-4, 0.9, (53.2, 53.7)),
    _Row("upernet_convnext_xlarge", "_in22k", _22K, 640, 0.4, 8e-5, 0.9, (53.6, 54.0)),
    # V2's paper gives ranges: learning rate 1e-4 to 3e-4, layer decay 0.8 or 0.9, drop path 0.1 to
    # 0.4.
    _Row("upernet_convnextv2_base", "", _V2_1K, 512, 0.2, 1e-4, 0.9, (None, 52.1), _V2),
    _Row("upernet_convnextv2_large", "", _V2_1K, 512, 0.3, 1e-4, 0.9, (None, 53.7), _V2),
    _Row("upernet_convnextv2_huge", "", _V2_1K, 512, 0.4, 1e-4, 0.8, (None, 55.0), _V2),
    _Row("upernet_convnextv2_huge", "_in22k", _V2_22K, 640, 0.4, 1e-4, 0.8, (None, 57.0), _V2),
    # SLaK's weights are not at an address that can be fetched: give the file, --pretrained FILE.
    _Row("upernet_slak_tiny", "", "", 512, 0.4, 1e-4, 0.9, (47.6, None), _SLAK),
    _Row("upernet_slak_small", "", "", 512, 0.3, 1e-4, 0.9, (49.4, None), _SLAK),
    _Row("upernet_slak_base", "", "", 512, 0.4, 1e-4, 0.9, (50.0, None), _SLAK),
)


def _published(row: _Row) -> Recipe:
    chosen = row.source == _V2
    return Recipe(
        name=f"{row.model}{row.suffix}_ade20k",
        task=SegmentConfig(
            model=row.model, pretrained=row.pretrained, drop_path_rate=row.drop_path
        ),
        data=SegmentationDataConfig(
            min_size=row.size,
            max_size=LONG_SIDES * row.size,
            crop_size=row.size,
            window=row.size,
            stride=_stride(row.size),
        ),
        optim=OptimConfig(
            lr=row.lr,
            min_lr=0.0,
            batch_size=BATCH,
            steps=STEPS,
            warmup_steps=WARMUP_STEPS,
            schedule="poly",
            layer_decay=row.layer_decay,
        ),
        train=TrainConfig(
            ema_decay=None, micro_batch=2, sync_batch_norm=True, eval_every_epochs=12
        ),
        source=row.source,
        expected_miou=row.miou,
        cost="8 GPUs x 2 images",
        notes="starts from weights that are not averaged" * (row.pretrained == _1K)
        + "learning rate, layer decay and drop path lie within the paper's ranges" * chosen
        + "published from pre-trained weights: --pretrained FILE" * (not row.pretrained),
    )


_PUBLISHED = {recipe.name: recipe for recipe in map(_published, _ROWS)}
# By its plain name a network is fit for the data; where there is much, it is trained as published.
_PLAIN = {
    row.model: replace(_published(row), name=row.model)
    for row in reversed(_ROWS)  # of two rows the first
}
RECIPES = _PUBLISHED | {row.model: _PLAIN[row.model] for row in _ROWS}
FITTED = tuple(_PLAIN)  # names of the recipes that are fit to the data

CPU_STEPS, GPU_STEPS = 1_500, 8_000
RARE = 20  # times fewer pixels than the median class


def fit_segmentation(
    summary: SegmentationSummary,
    data: SegmentationDataConfig,
    *,
    recipe: Recipe | None = None,
    device: str = "cpu",
    model: str = "",
    pretrained: str = "",
    image_size: int | None = None,
    sizes: GivenSizes | None = None,
    batch_size: int | None = None,
    epochs: int | None = None,
) -> tuple[Recipe, list[str]]:
    """A recipe fit for a segmentation set, and one sentence for each decision.

    Args:
        summary: Counts and sizes of the data.
        data: Where the data are.
        recipe: The named recipe to fit; None chooses the network too.
        device: "cpu", or an accelerator's type, for which larger networks and more steps are
            chosen.
        model: Name of the network, if the user has chosen it.
        pretrained: Weights to start from; "" = from scratch.
        image_size: Short side in pixels, when the user decides it; likewise the next three. 0
            leaves the images as they are.
        sizes: Of crops and windows.
        batch_size: Images a step.
        epochs: Passes over the data.
    """
    reasons: list[str] = []
    say: Callable[[str], None] = reasons.append
    n, cpu, sizes = summary.num_images, device == "cpu", sizes or GivenSizes()
    say(
        f"{n:,} training images with masks of {summary.num_classes} classes, "
        f"{summary.median_long_side}x{summary.median_short_side} px (median)"
    )
    chosen = model or (recipe.segment[0].model if recipe else "")
    if n >= ADE_SCALE or (recipe is not None and recipe.name not in _PLAIN):
        recipe = _as_published(recipe or _nearest(chosen, pretrained), data, image_size, sizes)
        say(f"{recipe.name} as published")
        return recipe, reasons
    data = _sizes(summary, data, image_size, sizes, cpu, say)
    say("from scratch" if not pretrained else f"from {pretrained} weights")
    task = _network(summary, chosen, pretrained, cpu, say)
    batch = batch_size or min(8 if cpu else BATCH, n)
    per_epoch = max(1, n // batch)
    epochs = epochs or min(400, max(12, round((CPU_STEPS if cpu else GPU_STEPS) / per_epoch)))
    say(f"{epochs} epochs of {per_epoch} steps with batches of {batch}")
    decay = 0.9 if pretrained and ":" not in chosen else 1.0  # the layers of timm are not known
    lr = 2e-4 if pretrained else 1e-3
    say(f"learning rate {lr:.3g}, falling along a cosine" + ", lower below" * (decay < 1))
    say("left-right flips; where nothing has an up (microscopy): --data.augment.vflip 0.5")
    steps = epochs * per_epoch
    return Recipe(
        name=recipe.name if recipe else "auto",
        task=task,
        data=data,
        optim=OptimConfig(
            lr=lr,
            min_lr=0.0,
            batch_size=batch,
            epochs=epochs,
            warmup_epochs=min(epochs, round(min(100, steps / 10) / per_epoch, 3)),
            layer_decay=decay,
            clip_grad=1.0,
        ),
        train=TrainConfig(
            ema_decay=0.99 if cpu else 0.998,
            ema_warmup=True,
            micro_batch=None if cpu else 8,
            eval_every_epochs=max(1, epochs // 10),
            sync_batch_norm=True,
        ),
        source="chosen for the data",
        notes="; ".join(reasons),
    ), reasons


def _as_published(
    recipe: Recipe, data: SegmentationDataConfig, image_size: int | None, sizes: GivenSizes
) -> Recipe:
    """A published recipe on these data."""
    _, published = recipe.segment
    kept = ("in_chans", "max_size", "crop_size", "window", "stride", "augment")
    values = {name: getattr(published, name) for name in kept}
    short = published.min_size if image_size is None else image_size
    data = replace(data, **values, min_size=0).at_short_side(short)
    return replace(recipe, data=sizes.put_in(data))


def _nearest(model: str, pretrained: str) -> Recipe:
    """The published recipe of a network; of one without, that of T."""
    usual = "upernet_convnext_tiny"
    recipe = _PLAIN.get(model or usual)
    if recipe is None:
        base = _PLAIN[usual]
        rate = 0.0 if ":" in model else base.segment[0].drop_path_rate
        task = replace(base.segment[0], model=model, pretrained=pretrained, drop_path_rate=rate)
        decay = 1.0 if ":" in model else base.optim.layer_decay
        recipe = replace(base, name=model, task=task, expected_miou=None)
        recipe = replace(recipe, optim=replace(recipe.optim, layer_decay=decay))
    if pretrained:
        recipe = replace(recipe, task=replace(recipe.segment[0], pretrained=pretrained))
    return recipe


def _sizes(
    summary: SegmentationSummary,
    data: SegmentationDataConfig,
    image_size: int | None,
    sizes: GivenSizes,
    cpu: bool,
    say: Callable[[str], None],
) -> SegmentationDataConfig:
    """How large the network sees the images, in training and in evaluation."""
    limit, side = (256 if cpu else 512), summary.median_short_side
    short = min(limit, side) if image_size is None else image_size
    short = short and max(32, round(short / 32) * 32)
    ratio = summary.median_long_side / side
    crop = sizes.crop_size or max(32, round(min(limit, short or side) / 32) * 32)
    # An image not much larger than the crop is seen at once, as context helps.
    at_once = (short or side) * ratio <= 2 * crop
    data = replace(
        data.at_short_side(short),
        crop_size=crop,
        window=0 if at_once else crop,
        stride=_stride(crop),
        augment=SegmentationAugmentConfig(
            hflip=data.augment.hflip, vflip=data.augment.vflip, scale=(0.75, 1.5)
        ),
    )
    data = sizes.put_in(data)
    say(
        (f"short side {short} px" if short else "images keep their size")
        + f", crops of {crop} px, scored "
        + (f"in windows of {data.window} px" if data.window else "at once")
        + (f" (images have {side} px: --image-size 0 keeps them)" if short < side and short else "")
    )
    return data


def _network(
    summary: SegmentationSummary,
    name: str,
    pretrained: str,
    cpu: bool,
    say: Callable[[str], None],
) -> SegmentConfig:
    args: dict[str, Any] = {}
    if not name:
        name = "upernet_convnextv2_atto" if cpu else "upernet_convnext_tiny"
        say(f"{name}, which trains in reasonable time on {'a CPU' if cpu else 'a GPU'}")
        if cpu:
            args = {"head_dim": 96, "aux_dim": 64}
    counts = sorted(count for count in summary.pixels if count)
    rare = bool(counts) and counts[0] * RARE < counts[len(counts) // 2]
    if rare:
        say("Dice loss beside the cross-entropy: some classes have few pixels")
    drop_path = 0.0 if ":" in name else 0.1 if cpu else 0.2
    return SegmentConfig(
        model=name,
        pretrained=pretrained,
        drop_path_rate=drop_path,
        model_args=args,
        body_args={} if pretrained else body_from_scratch(segmenter_config(name).backbone),
        dice_weight=0.5 if rare else 0.0,
        loss_mean="labelled",
    )
