"""Which implementation of an operation runs: chosen explicitly, never patched in at import.

``auto`` picks the fastest exact implementation for the tensor at hand. ``reference`` runs the
operator sequence of the published code, so that logits are bit-equal to it on the same weights.
The environment variable ``CONVNEXT_OPS`` sets the choice for a whole process.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Literal, get_args

import torch

logger = logging.getLogger(__name__)

Implementation = Literal["auto", "reference"]


def _checked(choice: str, source: str) -> Implementation:
    for known in get_args(Implementation):
        if choice == known:
            return known  # type: ignore[no-any-return]
    allowed = ", ".join(get_args(Implementation))
    raise ValueError(f"{source}={choice!r} is not an implementation; choose one of: {allowed}")


_current: Implementation = _checked(os.environ.get("CONVNEXT_OPS", "auto"), "CONVNEXT_OPS")


def use_reference() -> bool:
    """Whether the published operator sequence was asked for."""
    return _current == "reference"


@cache
def triton_available() -> bool:
    """Whether Triton kernels can run; says once why they cannot where a GPU is there."""
    if not torch.cuda.is_available():
        return False
    if find_spec("triton") is None:
        logger.warning("large depthwise kernels run through cuDNN: the package triton is missing")
        return False
    return True


@contextmanager
def use(implementation: Implementation) -> Iterator[None]:
    """Run the body with the given implementation of every operation.

    Args:
        implementation: ``"auto"`` (fastest exact one) or ``"reference"`` (operator sequence of
            the published code).

    Raises:
        ValueError: The name is not a known implementation.
    """
    global _current
    previous, _current = _current, _checked(implementation, "implementation")
    try:
        yield
    finally:
        _current = previous
