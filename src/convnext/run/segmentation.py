"""Segmentation: its recipe for the data at hand, its network, its scores."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from torch import nn

from convnext.data import Splits, TrainBatches, check_images, num_workers
from convnext.data.config import SegmentationDataConfig
from convnext.data.detection import is_detection_set
from convnext.data.segmentation import (
    SegmentationDataset,
    SegmentationSource,
    find_doubt,
    open_segmentation,
    segmentation_summary,
    trained_rows,
)
from convnext.recipes.recipe import Recipe
from convnext.recipes.segmentation import GivenSizes, fit_segmentation
from convnext.run.job import Job
from convnext.run.kind import Kind, Say
from convnext.run.loading import pick_device
from convnext.run.segmentation_conclusion import conclude
from convnext.run.segmentation_loading import new_segment_task
from convnext.run.segmentation_scoring import score_split
from convnext.run.target import kind_of_target
from convnext.tasks.segment import SegmentTask, balanced_weights, check_batch
from convnext.train.protocols import Batches, Evaluate
from convnext.weights.segmentation import (
    AUXILIARY,
    PREDICTORS,
    load_backbone_weights,
    load_segmenter_weights,
)
from convnext.weights.sources import resolve
from convnext.weights.systems.kinds import SEGMENTER
from convnext.weights.timm_backbone import TimmBackbone

__all__ = ["SEGMENTATION", "choose_segmentation"]

LOGGED = ("miou", "pixel_accuracy", "mean_accuracy", "mean_dice")  # during the run


def choose_segmentation(
    data: SegmentationDataConfig,
    *,
    recipe: Recipe | None = None,
    model: str = "",
    pretrained: str = "",
    device: str = "auto",
    image_size: int | None = None,
    sizes: GivenSizes | None = None,
    batch_size: int | None = None,
    epochs: int | None = None,
) -> tuple[Recipe, list[str]]:
    """A recipe fit for the segmentation set that `data` names, and the reasons for it.

    Args:
        data: Where the images are.
        recipe: The named recipe to fit, if the user has chosen one.
        model: Name of the network, if the user has chosen it; so for the other arguments.
        pretrained: Weights to start from.
        device: "auto", "cpu", "cuda", ...
        image_size: Short side of the images in pixels; 0 keeps their size.
        sizes: Of crops and windows.
        batch_size: Images a step.
        epochs: Passes over the data.
    """
    train = open_segmentation(data).train
    recipe, reasons = fit_segmentation(
        segmentation_summary(train, data),
        data,
        recipe=recipe,
        device=pick_device(device).type,
        model=model,
        pretrained=pretrained,
        image_size=image_size,
        sizes=sizes,
        batch_size=batch_size,
        epochs=epochs,
    )
    if is_detection_set(data.path):
        text = "masks of classes are learnt; there are boxes, too: --model mask_rcnn_convnext_tiny"
        reasons = [f"{text} would learn those", *reasons]
    return recipe, reasons


def _open(recipe: Recipe) -> Splits[SegmentationSource]:
    _, data = recipe.segment
    splits = check_images(open_segmentation(data), data)
    _, found = trained_rows(splits.train, data)
    doubt = find_doubt(splits.train, found.pixels.sum(axis=0).tolist())
    if doubt is not None:
        raise ValueError(f"{data.path}: {doubt.message}")
    return splits


def _build(job: Job, resumed: bool, say: Say) -> SegmentTask:
    """The network; with pretrained weights unless a checkpoint will replace them anyway."""
    config, data = job.recipe.segment
    source = cast(SegmentationSource, job.splits.train)
    weights = None
    if config.class_weights == "balanced" and not resumed:
        pixels: Sequence[int] = job.world.from_main(
            lambda: segmentation_summary(source, data).pixels
        )
        weights = balanced_weights(pixels)
        low, high = float(weights.min()), float(weights.max())
        say(f"weights of the classes: {low:.2f} to {high:.2f}, by their pixels")
    task = new_segment_task(job.recipe, len(job.splits.classes), weights)
    if config.pretrained and not resumed:
        _start_from(task, job, say)
    return task


def _start_from(task: SegmentTask, job: Job, say: Say) -> None:
    """Load weights of a backbone or of a whole network into a new task.

    Of a network for other classes all but the last layers is taken; one may lack the auxiliary
    head.

    Raises:
        ValueError: They do not fit.
        OSError: They cannot be read.
    """
    config = task.config
    source = True if config.pretrained == "true" else config.pretrained
    if isinstance(task.network.backbone.body, TimmBackbone):
        say(f"backbone: {load_backbone_weights(task.network, source)}")
        return
    backbone = task.network.config.backbone
    # Downloaded once, by the first process, and read by all of them from its cache.
    path = Path(job.world.from_main(lambda: str(resolve(source, backbone).path)))
    if kind_of_target(str(path)) is not SEGMENTER:
        report = load_backbone_weights(task.network, source)
        say(f"backbone {config.pretrained}: {report}")
        return
    info = load_segmenter_weights(task.network, path, allow=(*PREDICTORS, AUXILIARY))
    say(f"segmentation network {info.source}: {info.report}")


def _batches(job: Job) -> Batches:
    """The training images in batches of the recipe's effective size."""
    recipe, world = job.recipe, job.world
    config, data = recipe.segment
    source = cast(SegmentationSource, job.splits.train)
    # Every mask is read for it: by one process for all.
    rows = world.from_main(lambda: trained_rows(source, data)[0])
    batches = TrainBatches(
        SegmentationDataset(source.subset(rows), data, train=True, seed=recipe.train.seed),
        batch_size=recipe.optim.batch_size,
        micro_batch=recipe.train.micro_batch,
        world=world.size,
        rank=world.rank,
        seed=recipe.train.seed,
        workers=num_workers(data.workers),
    )
    # Before anything is written; the task itself would say so in the first step.
    together = world.size if recipe.train.sync_batch_norm else 1
    network = config.network_config(len(job.splits.classes), data.in_chans)
    check_batch(network, batches.micro_batch * together, (data.crop_size, data.crop_size))
    return cast(Batches, batches)


def _evaluator(job: Job) -> Evaluate | None:
    if job.splits.val is None:
        return None
    source = cast(SegmentationSource, job.splits.val)

    def evaluate(module: nn.Module) -> dict[str, float]:
        scores = score_split(job, module, source).scalars()
        return {
            "score": scores.get("miou", 0.0),
            **{k: v for k, v in scores.items() if k in LOGGED},
        }

    return evaluate


SEGMENTATION = Kind(
    open=_open,
    build=_build,
    batches=_batches,
    evaluator=_evaluator,
    conclude=conclude,
)
