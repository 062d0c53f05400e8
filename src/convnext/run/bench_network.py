"""One network of a benchmark: built by any library, and as a function that infers or trains."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from convnext.deploy.fused import FusedConvNeXt, optimize
from convnext.evaluate.cost import peak_memory
from convnext.models.backbone import Backbone
from convnext.models.convnext import ConvNeXtConfig
from convnext.models.large_kernel import merge
from convnext.models.registry import (
    build_model,
    is_model,
    list_models,
    model_config,
    unknown,
)
from convnext.ops.cpu.features import choose
from convnext.ops.cpu.kernel_sets import PLAIN

__all__ = [
    "DTYPES",
    "Cell",
    "Dtype",
    "Format",
    "Mode",
    "build",
    "fused",
    "has_fused_form",
    "inference",
    "tf32",
    "training",
]

Dtype = Literal["fp32", "tf32", "bf16", "fp16", "int8"]
Format = Literal["contiguous", "channels_last"]
Mode = Literal["eager", "compiled", "fused"]
DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
NUM_CLASSES = 1000
CALIBRATION_IMAGES, CALIBRATION_SIZE = 2, 64  # of noise: speed does not depend on the ranges


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What is measured how.

    Attributes:
        network: Name of ours, `merged:NAME` for its form for deployment, `timm:NAME` or
            `torchvision:NAME`.
        size: Side of the images in pixels.
        batch_size: Images a batch.
        dtype: Arithmetic: of weights and images in inference, of autocast in training.
        memory_format: Layout of images and weights.
        mode: "compiled" by `torch.compile`, or "fused" native code, of ours for inference only.
        device: "cpu", "cuda", ...
    """

    network: str
    size: int
    batch_size: int
    dtype: Dtype
    memory_format: Format
    mode: Mode
    device: str


def build(network: str, size: int) -> nn.Module:
    """A network with new weights for 1000 classes.

    Raises:
        ValueError: No library has it, or it does not take images of this size.
    """
    source, _, name = network.rpartition(":")
    if source in ("", "merged"):
        if not is_model(name):
            raise unknown("model", name, list_models())
        ours = cast(Backbone, build_model(name, num_classes=NUM_CLASSES))
        return merge(ours) if source else ours
    if source == "timm":
        return _timm(name, size)
    if source == "torchvision":
        import torchvision

        known = torchvision.models.list_models(module=torchvision.models)
        if name not in known:
            raise unknown("torchvision model", name, known)
        model: nn.Module = torchvision.models.get_model(name, num_classes=NUM_CLASSES)
        return model
    raise unknown("library", source, ("merged", "timm", "torchvision"))


def _timm(name: str, size: int) -> nn.Module:
    import timm

    if not timm.is_model(name):
        raise unknown("timm model", name, timm.list_models())
    args: dict[str, Any] = {"num_classes": NUM_CLASSES}
    cfg = timm.get_pretrained_cfg(name)
    if cfg is not None and cfg.fixed_input_size and cfg.input_size[-1] != size:
        args["img_size"] = size
    model: nn.Module = timm.create_model(name, **args)
    return model


def inference(cell: Cell) -> Callable[[], object]:
    """The forward pass of one batch."""
    model, images = _ready(cell, train=False)

    def infer() -> object:
        with torch.inference_mode(), tf32(cell.dtype):
            return model(images)

    return infer


def training(cell: Cell) -> Callable[[], object]:
    """Forward, backward and AdamW step on one batch; weights stay in fp32, under autocast."""
    model, images = _ready(cell, train=True)
    target = torch.randint(NUM_CLASSES, (cell.batch_size,), device=cell.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    scaler = torch.amp.GradScaler(cell.device, enabled=cell.dtype == "fp16")
    low = cell.dtype in ("bf16", "fp16")

    def step() -> object:
        device = torch.device(cell.device).type
        with tf32(cell.dtype), torch.autocast(device, dtype=DTYPES[cell.dtype], enabled=low):
            logits = model(images)
            # torchvision's Inception and GoogLeNet give more than logits in training
            loss = cross_entropy((logits if isinstance(logits, Tensor) else logits[0]), target)
        with tf32(cell.dtype):
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        return loss

    return step


def _ready(cell: Cell, *, train: bool) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    images = torch.randn(cell.batch_size, 3, cell.size, cell.size)
    model = build(cell.network, cell.size).train(train)
    to: Any = {"device": cell.device}
    if cell.memory_format == "channels_last":
        to["memory_format"] = torch.channels_last
    if cell.mode == "fused":
        return fused(model, cell.dtype), images.to(**to)
    if not train:
        to["dtype"] = DTYPES[cell.dtype]
    model, images = model.to(**to), images.to(**to)
    if cell.mode == "compiled":
        model.compile()
    return model, images


def has_fused_form(network: str) -> bool:
    """Whether native code can run this network."""
    if not is_model(network):
        return False
    config = model_config(network)
    return isinstance(config, ConvNeXtConfig) and config.plain


def fused(model: nn.Module, dtype: Dtype) -> FusedConvNeXt:
    """A network of ours in native code of this precision; in int8 all blocks are quantised.

    Raises:
        ValueError: It has no fused form, or there is no native code for this precision here.
    """
    if dtype == "int8":
        few = torch.randn(CALIBRATION_IMAGES, 3, CALIBRATION_SIZE, CALIBRATION_SIZE)
        network = optimize(model.eval(), "int8", calibration=[few], max_error=math.inf)
    elif dtype in ("fp32", "bf16"):
        network = optimize(model.eval(), dtype)
    else:
        raise ValueError(f"native code computes in fp32, bf16 and int8, not in {dtype}")
    if network.kernels is PLAIN:
        raise ValueError(f"no native kernels to measure: {choose(dtype).reason}")
    return network


@contextmanager
def tf32(dtype: Dtype) -> Iterator[None]:
    """Let CUDA round fp32 products to TF32, or forbid it, for a while."""
    places = (torch.backends.cuda.matmul, cast(Any, torch.backends.cudnn).conv)
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = "tf32" if dtype == "tf32" else "ieee"
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.fp32_precision = value


def training_memory(cell: Cell, send: Any) -> None:
    """Body of a process of its own: three training steps, then the peak in bytes.

    On CUDA the allocator's peak, else the resident set of the process less what it held before the
    network was built. An exception is sent in place of a number.
    """
    try:
        if torch.device(cell.device).type == "cuda":
            step = training(cell)
            for _ in range(3):
                step()
            send.send(torch.cuda.max_memory_allocated())
            return
        before = peak_memory(torch.device("cpu"))
        step = training(cell)
        for _ in range(3):
            step()
        send.send(peak_memory(torch.device("cpu")) - before)
    except (RuntimeError, MemoryError, ValueError) as error:
        send.send(error)
