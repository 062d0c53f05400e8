"""Random numbers as a function of (seed, step, micro-batch, rank), never of history."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_MASK = (1 << 64) - 1


def mix(*parts: int) -> int:
    """Hash integers to 64 bits, so that neighbouring steps get unrelated random streams.

    Source: the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
    """
    value = 0
    for part in parts:
        value = (value + part + 0x9E3779B97F4A7C15) & _MASK
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
        value ^= value >> 31
    return value


def seed_all(*parts: int) -> None:
    """Seed the global generators of Python, NumPy and torch from `parts`.

    Those of CUDA devices too, once CUDA is in use.
    """
    value = mix(*parts)
    random.seed(value)
    np.random.seed(value & 0xFFFFFFFF)
    # not torch.manual_seed: while CUDA sleeps it queues every call, with its stack, for later
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(value)


@contextmanager
def preserved() -> Iterator[None]:
    """Leave the global generators that `seed_all` seeds as they were found."""
    python, numpy_state = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy_state)
