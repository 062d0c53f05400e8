"""One pass over images with masks: classes of pixels into metrics."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from convnext.data import EvalBatches, num_workers
from convnext.data.config import SegmentationDataConfig
from convnext.data.segmentation import SegmentationBatch, SegmentationSource, segmentation_dataset
from convnext.evaluate.segmentation import SegmentationMetrics
from convnext.evaluate.segmentation_result import SegmentationResult
from convnext.models.upernet import MIN_SIDE
from convnext.run.job import Job
from convnext.run.scoring import progress
from convnext.run.segmenting import Predict, as_predict, calls, image_classes
from convnext.train.batch import to_device

__all__ = ["eval_batches", "score_segments", "score_split"]

EVAL_BATCH = 1  # images keep their own size


def eval_batches(
    source: SegmentationSource,
    data: SegmentationDataConfig,
    *,
    world: int = 1,
    rank: int = 0,
) -> EvalBatches[SegmentationBatch]:
    """The images of a source, one a batch, at the size of evaluation."""
    return EvalBatches(
        segmentation_dataset(source, data, train=False),
        batch_size=EVAL_BATCH,
        world=world,
        rank=rank,
        workers=num_workers(data.workers),
    )


def score_segments(
    predict: Predict,
    batches: EvalBatches[SegmentationBatch],
    data: SegmentationDataConfig,
    classes: Sequence[str],
    device: torch.device,
    *,
    most: Callable[[int], int] | None = None,
    title: str = "evaluating",
    show: bool = True,
) -> SegmentationResult:
    """Score a network on every image of `batches`, over all processes.

    Args:
        predict: Images (B, C, h, w) to logits (B, K, h, w), in evaluation mode.
        batches: Images and masks; padding has index -1.
        data: How images are seen.
        classes: Names of the K classes.
        device: Where the network is.
        most: The largest of a number over all processes, where they have to call the network
            equally often because its weights are sharded.
        title: What the progress bar says.
        show: Whether this process shows a bar.
    """
    metrics, num_classes = SegmentationMetrics(classes), len(classes)
    with torch.no_grad():  # sharded weights cannot be gathered in inference mode
        for batch in progress(batches, title, total=len(batches), show=show):
            image = to_device(dict(batch), device, channels_last=True)["image"][0]
            mask = batch["mask"][0]
            needed = calls(image, data, num_classes)
            missing = most(needed) - needed if most is not None else 0
            size = (mask.shape[0], mask.shape[1])
            said = image_classes(predict, image, data, num_classes, size)
            for _ in range(missing):
                predict(image.new_zeros(1, len(image), MIN_SIDE, MIN_SIDE))
            metrics.update(said, mask, int(batch["index"][0]))
    return metrics.compute()


def score_split(
    job: Job, task: nn.Module, source: SegmentationSource, *, title: str = "evaluating"
) -> SegmentationResult:
    """Scores of a task's weights on a part of a run's data, over all processes."""
    _, data = job.recipe.segment
    world = job.world
    sharded = job.recipe.train.parallel == "fsdp"
    return score_segments(
        as_predict(task),
        eval_batches(source, data, world=world.size, rank=world.rank),
        data,
        job.splits.classes,
        world.device,
        most=world.most if sharded else None,
        title=title,
        show=world.is_main,
    )
