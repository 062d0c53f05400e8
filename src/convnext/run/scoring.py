"""One pass over labelled images: logits into metrics."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from convnext.data.batches import EvalBatches
from convnext.evaluate.classification import ClassificationMetrics
from convnext.evaluate.result import ClassificationResult
from convnext.train.batch import to_device

__all__ = ["progress", "score"]

T = TypeVar("T")
PATIENCE = 2.0  # seconds before a progress bar appears
LINE_SECONDS = 10.0


def score(
    logits: Callable[[dict[str, Any]], Tensor],
    batches: EvalBatches,
    classes: Sequence[str],
    device: torch.device,
    *,
    calibration: bool = True,
    channels_last: bool = True,
    title: str = "evaluate",
    show: bool = True,
) -> ClassificationResult:
    """Score a network on every image of `batches`, over all processes.

    Args:
        logits: A batch with `image` (N, C, H, W) to class scores (N, K), in evaluation mode.
        batches: Labelled images; padding has index -1.
        classes: Names of the K classes.
        device: Where the network is.
        calibration: Whether to fit a temperature.
        channels_last: Layout of the images on the device.
        title: What the progress bar says.
        show: Whether this process shows a bar.
    """
    metrics = ClassificationMetrics(len(classes), classes, calibration=calibration)
    with torch.no_grad():  # sharded weights cannot be gathered in inference mode
        for batch in progress(batches, title, total=len(batches), show=show):
            on_device = to_device(dict(batch), device, channels_last=channels_last)
            metrics.update(logits(on_device).float(), batch["label"], batch["index"])
    return metrics.compute()


def progress(
    items: Iterable[T],
    title: str,
    *,
    total: int | None = None,
    show: bool = True,
    unit: str = "batches",
) -> Iterator[T]:
    """The items, with a progress bar if they take longer than two seconds.

    On a terminal a bar, elsewhere a plain line every ten seconds.
    """
    if not show:
        yield from items
        return
    if sys.stderr.isatty():
        yield from tqdm(items, desc=title, total=total, delay=PATIENCE, leave=False, unit=unit)
        return
    last = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        if time.monotonic() - last >= LINE_SECONDS:
            last = time.monotonic()
            of = f" of {total}" if total is not None else ""
            print(f"{title}: {done}{of} {unit}", file=sys.stderr, flush=True)
