"""What a network costs: parameters, multiply-accumulates, images per second, memory."""

import resource
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from convnext.evaluate.counting import count


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of a network at one input shape on one device.

    Attributes:
        params: Number of parameters.
        macs: Multiply-accumulates of one image.
        nonzero_params: Parameters that are not zero; fewer than all after sparse training.
        nonzero_macs: Multiply-accumulates with weights that are not zero: what sparse code could
            do with, and what papers on sparse networks print. Dense code computes `macs`.
        input_shape: ``(C, H, W)``.
        images_per_second: Median inference throughput.
        batch_size: Images a batch at that throughput.
        peak_memory: Bytes. On CUDA the allocator's peak during the measurement; on the CPU the
            peak resident size of the whole process so far, everything before included.
        device: Name of the device.
    """

    params: int
    macs: int
    nonzero_params: int
    nonzero_macs: int
    input_shape: tuple[int, int, int]
    images_per_second: float
    batch_size: int
    peak_memory: int
    device: str

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self) | {"input_shape": list(self.input_shape)}


def num_params(model: nn.Module) -> int:
    """Number of parameters, shared ones counted once."""
    return sum(p.numel() for p in model.parameters())


def num_nonzero(model: nn.Module) -> int:
    """Parameters without those that sparse training holds at zero.

    Those are the zeros of weights, tensors of two and more dimensions; a bias that is zero counts.
    """
    zeros = sum(p.numel() - int(p.count_nonzero()) for p in model.parameters() if p.ndim > 1)
    return num_params(model) - zeros


def macs(model: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Multiply-accumulates of one image by the papers' rule, see `counting.RULES`.

    Args:
        model: The network, on any device; it is not changed.
        input_shape: ``(C, H, W)``.
    """
    return count(model, input_shape).total("paper")


def throughput(model: nn.Module, batch: Tensor, *, seconds: float = 2.0) -> float:
    """Images per second of the forward pass: median over the batches that fit into ``seconds``.

    Three warm-up batches are not counted and at least three are timed; the device is synchronised
    around each batch. Runs in evaluation mode without gradients, under the caller's autocast.

    Args:
        model: The network.
        batch: ``(N, C, H, W)`` on the network's device.
        seconds: Time to spend on measuring.
    """
    was_training = model.training
    model.eval()
    times: list[float] = []
    try:
        with torch.inference_mode():
            for _ in range(3):
                model(batch)
            while len(times) < 3 or sum(times) < seconds:
                _synchronize(batch.device)
                start = time.perf_counter()
                model(batch)
                _synchronize(batch.device)
                times.append(time.perf_counter() - start)
    finally:
        model.train(was_training)
    return batch.shape[0] / statistics.median(times)


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes.

    On CUDA the allocator's peak since its last reset; elsewhere the peak resident size of this
    process since it started.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would give a new process the peak of the one that started it
        lines = status.read_text().splitlines()
        kilobytes = next(line.split()[1] for line in lines if line.startswith("VmHWM"))
        return int(kilobytes) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def measure_cost(
    model: nn.Module, input_shape: tuple[int, int, int], *, batch_size: int, seconds: float = 2.0
) -> Cost:
    """Measure all of `Cost` on the device and in the dtype of the network's parameters.

    Args:
        model: The network.
        input_shape: ``(C, H, W)``.
        batch_size: Images a batch for throughput and memory, at least 1.
        seconds: Time to spend on the throughput.

    Raises:
        ValueError: For a batch size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    parameter = next(model.parameters())
    device = parameter.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    batch = torch.zeros(batch_size, *input_shape, device=device, dtype=parameter.dtype)
    counted = count(model, input_shape)
    speed = throughput(model, batch, seconds=seconds)
    return Cost(
        params=num_params(model),
        macs=counted.total("paper"),
        nonzero_params=num_nonzero(model),
        nonzero_macs=counted.nonzero,
        input_shape=input_shape,
        images_per_second=speed,
        batch_size=batch_size,
        peak_memory=peak_memory(device),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
    )


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
