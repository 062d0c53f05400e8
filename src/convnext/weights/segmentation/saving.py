"""save_segmenter: a folder with a segmentation network's weights and what is needed to use them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from convnext.weights.preprocessing import SegmenterPreprocessing
from convnext.weights.segmentation.system import SYSTEM
from convnext.weights.systems.saving import save_system

__all__ = ["save_segmenter"]


def save_segmenter(
    model: nn.Module,
    directory: str | Path,
    *,
    labels: Sequence[str] | None = None,
    preprocessing: SegmenterPreprocessing | None = None,
    name: str | None = None,
    licence: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write a segmentation network's weights and what is needed to use them again.

    Args:
        model: a `UPerNet`; wrappers of DDP and torch.compile are taken off.
        directory: folder, made if missing. Files of an earlier save are replaced.
        labels: names of the classes in the order of the logits.
        preprocessing: what images need.
        name: name to store; found out from the parts by default.
        licence: licence of the weights.
        extra: anything else to keep with the weights, as JSON values (scores, recipe).

    Returns:
        The folder, for `load_segmenter`.

    Raises:
        ValueError: the model is no segmentation network of this package, or labels or
            preprocessing do not fit.
        OSError: no space or no permission; nothing half-written is left.
    """
    return save_system(
        SYSTEM,
        model,
        directory,
        labels=labels,
        preprocessing=preprocessing,
        name=name,
        licence=licence,
        extra=extra,
    )
