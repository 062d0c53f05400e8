"""Number formats of a training step."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve(precision: str, device: torch.device) -> str:
    """Turn "auto" into "bf16" on a device with matrix units for it, else into "fp32".

    Those are CUDA devices with native bf16 and CPUs with AMX, where a step of ConvNeXt is 1.2 to
    1.7 times as fast in bf16; other CPUs convert more than they gain.

    Raises:
        ValueError: the device cannot compute in the format asked for.
    """
    cuda = device.type == "cuda"
    native_bf16 = cuda and torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "auto":
        fast = native_bf16 or (device.type == "cpu" and _has_amx())
        return "bf16" if fast else "fp32"
    if precision == "bf16" and cuda and not native_bf16:
        raise ValueError(f"precision=bf16: {torch.cuda.get_device_name(device)} has no bf16: fp16")
    return precision


def _has_amx() -> bool:
    return torch.cpu._is_amx_tile_supported()


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
