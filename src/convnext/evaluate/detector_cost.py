"""What a detector costs, counted as in the tables of the ConvNeXt papers.

The papers' FLOPs are those of the counter that their code base had: multiply-accumulates of
convolutions, transposed convolutions and linear layers, one operation for each bias of a
convolution, each element of a ReLU that is a layer, and each input element of average pooling.
Norms, GELU, layer scale, ReLUs called as functions and the reading of regions do not count. The
image has 1280 x 800 pixels; every box head sees 1000 regions, every mask head 100.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from convnext.evaluate.cost import num_params

__all__ = ["BOX_REGIONS", "IMAGE_SIZE", "MASK_REGIONS", "DetectorCost", "detector_cost"]

IMAGE_SIZE = (800, 1280)  # height, width
BOX_REGIONS, MASK_REGIONS = 1000, 100
BOX_BINS, MASK_BINS = 7, 14
PARTS = ("backbone", "neck", "rpn_head", "roi_head.bbox_head", "roi_head.mask_head")


@dataclass(frozen=True, kw_only=True)
class DetectorCost:
    """Cost of a detector for one image.

    Attributes:
        params: number of trainable parameters.
        flops: operations, see the module.
        parts: operations of backbone, neck, rpn_head, roi_head.bbox_head and roi_head.mask_head.
        size: height and width of the image.
    """

    params: int
    flops: int
    parts: dict[str, int] = field(default_factory=dict)
    size: tuple[int, int] = IMAGE_SIZE


def detector_cost(model: nn.Module, size: tuple[int, int] = IMAGE_SIZE) -> DetectorCost:
    """Count one image in evaluation mode; nothing is computed.

    Args:
        model: a `MaskRCNN`, on any device; it is not changed.
        size: height and width of the image, multiples of 32.

    Raises:
        ValueError: a side is not a multiple of 32.

    Source: ConvNeXt table 3 and ConvNeXt V2, detection results; rule of mmcv's counter.
    """
    if min(size) < 1 or any(side % 32 for side in size):
        raise ValueError(f"image size {size[0]}x{size[1]}: both sides must be multiples of 32")
    whole = _Whole(model, size)
    tensors = dict((*whole.named_parameters(), *whole.named_buffers()))
    state = {name: torch.empty_like(t, device="meta") for name, t in tensors.items()}
    found: Counter[str] = Counter()
    handles = [
        module.register_forward_hook(_hook(found, part, operations))
        for name, module in model.named_modules()
        for part in PARTS
        for kind, operations in _RULE.items()
        if isinstance(module, kind) and name.startswith(part)
    ]
    modes = {module: module.training for module in model.modules()}
    model.eval()
    call: Callable[..., None] = torch.func.functional_call
    try:
        with torch.no_grad():
            call(whole, state, ())
    finally:
        for module, mode in modes.items():
            module.training = mode
        for handle in handles:
            handle.remove()
    parts = {part: found[part] for part in PARTS if found[part]}
    return DetectorCost(params=num_params(model), flops=sum(parts.values()), parts=parts, size=size)


class _Whole(nn.Module):
    """All parts of a detector that count, run once on meta tensors."""

    def __init__(self, model: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.model, self.size = model, size

    def forward(self) -> None:
        model = cast(Any, self.model)
        like = next(model.parameters())
        model.dense(like.new_empty(1, model.config.in_chans, *self.size))
        dim = model.config.fpn_dim
        for head in model.roi_head.box_heads:
            head(like.new_empty(BOX_REGIONS, dim, BOX_BINS, BOX_BINS))
        for head in model.roi_head.mask_heads:
            head(like.new_empty(MASK_REGIONS, dim, MASK_BINS, MASK_BINS))


Operations = Callable[[Any, Tensor, Tensor], int]


def _hook(found: Counter[str], part: str, operations: Operations) -> Callable[..., None]:
    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found[part] += operations(module, inputs[0], output)

    return add


def _convolution(module: nn.Conv2d, x: Tensor, y: Tensor) -> int:
    per_element = module.weight[0].numel()
    return y.numel() * (per_element + (module.bias is not None))


def _transposed(module: nn.ConvTranspose2d, x: Tensor, y: Tensor) -> int:
    per_element = module.weight[0].numel()
    return x.numel() * per_element + y.numel() * (module.bias is not None)


def _linear(module: nn.Linear, x: Tensor, y: Tensor) -> int:
    return y.numel() * module.in_features


_RULE: dict[type[nn.Module], Operations] = {
    nn.Conv2d: _convolution,
    nn.ConvTranspose2d: _transposed,
    nn.Linear: _linear,
    nn.ReLU: lambda module, x, y: y.numel(),
    nn.AdaptiveAvgPool2d: lambda module, x, y: x.numel(),
}
