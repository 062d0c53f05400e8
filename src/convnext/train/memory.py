"""Out of memory: which micro-batch would fit?"""

import gc
from collections.abc import Callable

import torch
from torch import Tensor

from convnext.train.batch import first, num_images
from convnext.train.protocols import Batch

_MESSAGES = (
    *("DefaultCPUAllocator", "not enough memory", "std::bad_alloc"),  # of the CPU
    *("out of memory", "ALLOC_FAILED"),  # of other devices and their libraries
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that a device, or the CPU's allocator, has no memory left."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in _MESSAGES)
    )


def micro_batch_that_fits(
    attempt: Callable[[Batch], object], batch: Batch, optimizer: torch.optim.Optimizer
) -> int | None:
    """Halve a batch until a forward and backward pass fits.

    Args:
        attempt: runs forward and backward.
        batch: the batch that did not fit.
        optimizer: if it has no state yet, room for two tensors per parameter is kept free.

    Returns:
        Number of images that fit, or None if not even one does.
    """
    size = num_images(batch)
    while size > 1:
        size //= 2
        if _fits(attempt, first(batch, size), optimizer):
            return size
    return None


def _fits(
    attempt: Callable[[Batch], object], batch: Batch, optimizer: torch.optim.Optimizer
) -> bool:
    optimizer.zero_grad()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    reserve: list[Tensor] = []
    try:
        if not optimizer.state:
            for group in optimizer.param_groups:
                reserve += [torch.empty_like(p) for p in group["params"] for _ in range(2)]
        attempt(batch)
    except (RuntimeError, MemoryError, ValueError) as error:
        # ValueError: a size that the task refuses, as mixup does an odd one
        if not isinstance(error, ValueError) and not is_out_of_memory(error):
            raise
        return False
    return True
