"""Detection: its recipe for the data at hand, its network, its scores."""

from pathlib import Path
from typing import cast

from torch import nn

from convnext.data import Splits, TrainBatches, check_images, num_workers
from convnext.data.config import DetectionDataConfig
from convnext.data.detection import (
    DetectionSource,
    detection_dataset,
    detection_summary,
    open_detection,
)
from convnext.data.segmentation import is_segmentation_set
from convnext.recipes.detection import fit_detection
from convnext.recipes.recipe import Recipe
from convnext.run.detection_conclusion import conclude
from convnext.run.detection_loading import new_task
from convnext.run.detection_scoring import score_split
from convnext.run.job import Job
from convnext.run.kind import Kind, Say
from convnext.run.loading import pick_device
from convnext.tasks.detect import DetectTask
from convnext.train.protocols import Batches, Evaluate
from convnext.weights.detection import (
    PREDICTORS,
    is_detector,
    load_backbone_weights,
    load_detector_weights,
)
from convnext.weights.sources import resolve
from convnext.weights.timm_backbone import TimmBackbone

__all__ = ["DETECTION", "choose_detection"]

LOGGED = ("ap", "ap50", "ap75", "mask_ap", "mask_ap50", "mask_ap75")  # during the run


def choose_detection(
    data: DetectionDataConfig,
    *,
    recipe: Recipe | None = None,
    model: str = "",
    pretrained: str = "",
    device: str = "auto",
    image_size: int | None = None,
    batch_size: int | None = None,
    epochs: int | None = None,
) -> tuple[Recipe, list[str]]:
    """A recipe fit for the detection set that `data` names, and the reasons for it.

    Args:
        data: Where the images are.
        recipe: The named recipe to fit, if the user has chosen one.
        model: Name of the detector, if the user has chosen it; so for the other arguments.
        pretrained: Weights to start from.
        device: "auto", "cpu", "cuda", ...
        image_size: Short side of the images in pixels.
        batch_size: Images a step.
        epochs: Passes over the data.
    """
    train = open_detection(data).train
    recipe, reasons = fit_detection(
        detection_summary(train, data),
        data,
        recipe=recipe,
        device=pick_device(device).type,
        model=model,
        pretrained=pretrained,
        image_size=image_size,
        batch_size=batch_size,
        epochs=epochs,
    )
    if is_segmentation_set(data.path):
        text = "boxes are learnt; there are masks of classes, too: --model upernet_convnext_tiny"
        reasons = [f"{text} would learn those", *reasons]
    return recipe, reasons


def _open(recipe: Recipe) -> Splits[DetectionSource]:
    task, data = recipe.detect
    splits = check_images(open_detection(data), data)
    if task.masks and not splits.train.has_masks:
        raise ValueError(
            f"{data.path} has boxes but no masks; train a detector of boxes: --task.no-masks"
        )
    return splits


def _build(job: Job, resumed: bool, say: Say) -> DetectTask:
    """The detector; with pretrained weights unless a checkpoint will replace them anyway."""
    task = new_task(job.recipe, len(job.splits.classes))
    if job.recipe.detect[0].pretrained and not resumed:
        _start_from(task, job, say)
    return task


def _start_from(task: DetectTask, job: Job, say: Say) -> None:
    """Load weights of a backbone or of a whole detector into a new task.

    Of a detector for other classes all but the last layers is taken.

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
    if not is_detector(path):
        report = load_backbone_weights(task.network, source)
        say(f"backbone {config.pretrained}: {report}")
        return
    info = load_detector_weights(task.network, path, allow=PREDICTORS)
    say(f"detector {info.source}: {info.report}")


def _batches(job: Job) -> Batches:
    """The training images in batches of the recipe's effective size."""
    recipe, world = job.recipe, job.world
    _, data = recipe.detect
    batches = TrainBatches(
        detection_dataset(
            cast(DetectionSource, job.splits.train), data, train=True, seed=recipe.train.seed
        ),
        batch_size=recipe.optim.batch_size,
        micro_batch=recipe.train.micro_batch,
        world=world.size,
        rank=world.rank,
        seed=recipe.train.seed,
        workers=num_workers(data.workers),
    )
    return cast(Batches, batches)


def _evaluator(job: Job) -> Evaluate | None:
    if job.splits.val is None:
        return None
    source = cast(DetectionSource, job.splits.val)

    def evaluate(module: nn.Module) -> dict[str, float]:
        result = score_split(job, module, source)
        best = result.mask or result.box
        scores = result.scalars()
        return {"score": best.AP or 0.0, **{k: v for k, v in scores.items() if k in LOGGED}}

    return evaluate


DETECTION = Kind(
    open=_open,
    build=_build,
    batches=_batches,
    evaluator=_evaluator,
    conclude=conclude,
)
