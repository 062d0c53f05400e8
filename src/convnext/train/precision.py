"""Number formats of a training step."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve(precision: str, device: torch.device) -> str:
    """Turn "auto" into "bf16" on a CUDA device that computes in it, else into "fp32".

    A CPU with bf16 instructions gets fp32: in ConvNeXt's step the conversions and the backward
    pass of the depthwise convolution take back what the matrix products gain (measured 0.8 to
    1.1 times the speed of fp32 with AMX), so there the format is left to the user.

    Raises:
        ValueError: the device cannot compute in the format asked for.
    """
    cuda = device.type == "cuda"
    native_bf16 = cuda and torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "auto":
        return "bf16" if native_bf16 else "fp32"
    if precision == "bf16" and cuda and not native_bf16:
        raise ValueError(f"precision=bf16: {torch.cuda.get_device_name(device)} has no bf16: fp16")
    return precision


def autocast_context(
    precision: str, device: torch.device
) -> Callable[[], AbstractContextManager[object]]:
    """What to enter around a forward pass: autocast, or nothing for fp32."""
    if precision == "fp32":
        return nullcontext
    return lambda: torch.autocast(device.type, dtype=_DTYPES[precision])


def grad_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler | None:
    """The loss scaler that fp16 needs to keep small gradients above zero; None for the others."""
    return torch.amp.GradScaler(device.type) if precision == "fp16" else None
