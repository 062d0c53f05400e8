"""One pass over images with objects: detections into COCO metrics."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from convnext.data import EvalBatches, num_workers
from convnext.data.detection import DetectionBatch, DetectionSource, detection_dataset
from convnext.evaluate.coco import CocoMetrics
from convnext.evaluate.coco_masks import encode_masks
from convnext.evaluate.coco_result import DetectionResult
from convnext.models.detection.masks import paste
from convnext.models.mask_rcnn import Detections
from convnext.run.job import Job
from convnext.run.scoring import progress
from convnext.train.batch import to_device

__all__ = ["mask_rles", "score_detections", "score_split"]

Rle = dict[str, Any]
EVAL_BATCH = 1  # as published: an image beside a larger one is padded, which its features see


def score_detections(
    detect: Callable[[dict[str, Any]], list[Detections]],
    batches: EvalBatches[DetectionBatch],
    source: DetectionSource,
    classes: Sequence[str],
    device: torch.device,
    *,
    masks: bool,
    channels_last: bool = True,
    title: str = "evaluating",
    show: bool = True,
) -> DetectionResult:
    """Score a detector on every image of `batches`, over all processes.

    Args:
        detect: A batch to the detections of its images, in pixels of the originals.
        batches: The images of `source`; padding has index -1.
        source: The truth.
        classes: Names of the classes.
        device: Where the network is.
        masks: Score masks besides boxes.
        channels_last: Layout of the images on the device.
        title: What the progress bar says.
        show: Whether this process shows a bar.
    """
    metrics = CocoMetrics(source.to_coco(classes), classes, masks=masks)
    with torch.no_grad():  # sharded weights cannot be gathered in inference mode
        for batch in progress(batches, title, total=len(batches), show=show):
            on_device = to_device(dict(batch), device, channels_last=channels_last)
            found = detect(on_device)
            for row, detections in zip(batch["index"].tolist(), found, strict=True):
                if row >= 0:
                    rles = mask_rles(detections, source.size(row)) if masks else None
                    metrics.update(source.image_id(row), *detections[:3], rles)
    return metrics.compute()


def score_split(
    job: Job, task: nn.Module, source: DetectionSource, *, title: str = "evaluating"
) -> DetectionResult:
    """Scores of a task's weights on a part of a run's data, over all processes."""
    config, data = job.recipe.detect
    batches = EvalBatches(
        detection_dataset(source, data, train=False),
        batch_size=EVAL_BATCH,
        world=job.world.size,
        rank=job.world.rank,
        workers=num_workers(data.workers),
    )

    def detect(batch: dict[str, Any]) -> list[Detections]:
        found: list[Detections] = task(batch)["detections"]
        return found

    return score_detections(
        detect,
        batches,
        source,
        job.splits.classes,
        job.world.device,
        masks=config.masks,
        channels_last=job.recipe.train.channels_last,
        title=title,
        show=job.world.is_main,
    )


def mask_rles(detections: Detections, size: tuple[int, int]) -> list[Rle]:
    """The masks of an image's detections as compressed run lengths, one after the other.

    Args:
        detections: With masks.
        size: Height and width of the original image.
    """
    assert detections.masks is not None, "a detector without masks was asked for them"
    masks, boxes = detections.masks.cpu(), detections.boxes.cpu()
    pasted = (paste(mask, box, size).numpy() for mask, box in zip(masks, boxes, strict=True))
    return [rle for mask in pasted for rle in encode_masks(mask[None])]
