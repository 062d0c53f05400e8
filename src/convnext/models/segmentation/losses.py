"""Losses of a segmentation network's logits, in the memory of one image.

Logits come at a quarter or a sixteenth of the labels' resolution and are enlarged first: 150
classes of 512 x 512 pixels are 157 MB, and again for their softmax and its gradient. The loss is a
sum over images, so here each is enlarged, scored and differentiated in turn, in the forward pass,
and only the gradient of the small logits is kept.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["IGNORE", "cross_entropy", "dice", "summed_loss"]

IGNORE = -1  # label of pixels that do not count
SMOOTH = 1.0

ImageLoss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy summed over the pixels that count, each times its class's weight.

    Args:
        logits: (1, K, H, W).
        labels: (1, H, W) int64, 0..K-1 or IGNORE.
        weight: (K,).
    """
    return F.cross_entropy(logits, labels, weight, ignore_index=IGNORE, reduction="sum")


def dice(logits: Tensor, labels: Tensor) -> Tensor:
    """One minus the soft Dice coefficient, mean over the classes that an image has.

        1 - mean_c (2 sum p_c t_c + 1) / (sum p_c + sum t_c + 1)

    with probabilities p and truth t, over the pixels that count; 0 where none does.

    Args:
        logits: (1, K, H, W).
        labels: (1, H, W) int64, 0..K-1 or IGNORE.

    Source: Milletari et al., V-Net, 3DV 2016, section 3.
    """
    counts = labels[0] != IGNORE  # (H, W)
    truth = labels[0].clamp(min=0).flatten()
    p = (logits[0].softmax(0) * counts).flatten(1)  # (K, H W), 0 where nothing counts
    of_class = torch.bincount(truth, counts.flatten().to(p), minlength=len(p))
    own = p.gather(0, truth[None])[0]
    overlap = torch.zeros_like(of_class).index_add(0, truth, own)
    score = (2 * overlap + SMOOTH) / (p.sum(1) + of_class + SMOOTH)
    present = (of_class > 0).to(p)
    return ((1 - score) * present).sum() / present.sum().clamp(min=1)


def summed_loss(logits: Tensor, labels: Tensor, loss: ImageLoss) -> Tensor:
    """The sum over images of a loss of the logits, enlarged to the labels' size.

    Args:
        logits: (N, K, h, w).
        labels: (N, H, W) int64, 0..K-1 or IGNORE.
        loss: logits (1, K, H, W) in fp32 and labels (1, H, W) to a number.
    """
    if torch.is_grad_enabled() and logits.requires_grad:
        total: Tensor = _SummedLoss.apply(logits, labels, loss)
        return total
    images = range(len(logits))
    return torch.stack([_one(logits[i : i + 1], labels[i : i + 1], loss) for i in images]).sum()


def _one(logits: Tensor, labels: Tensor, loss: ImageLoss) -> Tensor:
    size = (labels.shape[1], labels.shape[2])
    return loss(F.interpolate(_exact(logits), size, mode="bilinear", align_corners=False), labels)


def _exact(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


class _SummedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, loss: ImageLoss) -> Tensor:
        parts: list[Tensor] = []
        gradients: list[Tensor] = []
        with torch.autocast(logits.device.type, enabled=False):
            for i in range(len(logits)):
                with torch.enable_grad():
                    small = _exact(logits[i : i + 1].detach()).requires_grad_()
                    part = _one(small, labels[i : i + 1], loss)
                parts.append(part.detach())
                gradients += torch.autograd.grad(part, small)
        ctx.save_for_backward(torch.cat(gradients))
        ctx.dtype = logits.dtype
        return torch.stack(parts).sum()

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * outputs[0]).to(ctx.dtype), None, None
