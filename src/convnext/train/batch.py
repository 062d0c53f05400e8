"""Moving and cutting micro-batches."""

import torch
from torch import Tensor

from convnext.train.protocols import Batch


def to_device(batch: Batch, device: torch.device, *, channels_last: bool) -> Batch:
    """Move a batch's tensors, also in lists, without waiting.

    Image tensors (N, C, H, W) are brought into NHWC order if asked.
    """
    return {key: _move(value, device, channels_last) for key, value in batch.items()}


def first(batch: Batch, count: int) -> Batch:
    """The first `count` images of a batch: whatever is as long as its longest tensor is cut."""
    size = num_images(batch)
    return {
        key: value[:count]
        if isinstance(value, Tensor | list | tuple) and _length(value) == size
        else value
        for key, value in batch.items()
    }


def num_images(batch: Batch) -> int:
    """Number of images in a batch."""
    return max(_length(value) for value in batch.values() if isinstance(value, Tensor))


def _length(value: object) -> int:
    if isinstance(value, Tensor):
        return value.shape[0] if value.dim() else 0
    assert isinstance(value, list | tuple)
    return len(value)


def _move(value: object, device: torch.device, channels_last: bool) -> object:
    if isinstance(value, list):
        return [_move(item, device, channels_last) for item in value]
    if not isinstance(value, Tensor):
        return value
    if channels_last and value.dim() == 4:
        return value.to(device, non_blocking=True, memory_format=torch.channels_last)
    return value.to(device, non_blocking=True)
