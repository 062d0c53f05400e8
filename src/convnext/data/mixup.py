"""Mixup and CutMix of whole batches, with soft targets."""

import torch
from torch import Tensor, nn


class Mixup:
    """Mix each image of a batch with its mirror image in the batch, and their targets likewise.

    CutMix (with probability 1/2 where both are on) pastes a box of relative area 1 - λ from the
    partner, λ ~ Beta(cutmix, cutmix), and corrects λ to the pixels pasted; Mixup blends
    x = λ x_1 + (1 - λ) x_2 with λ ~ Beta(alpha, alpha). Targets: λ y_1 + (1 - λ) y_2, where y is
    smoothing / K everywhere plus 1 - smoothing at the label. With both strengths 0 only the targets
    are smoothed. Draws come from numpy's global generator; the images are changed in place.

    Args:
        alpha: Mixup strength, 0 = off.
        cutmix: CutMix strength, 0 = off.
        smoothing: label smoothing, 0..1.
        num_classes: K.

    Raises:
        ValueError: for a strength below 0 or a smoothing outside 0..1; when called, for a batch of
            odd size, which cannot be paired.

    Source: Zhang et al. 2018 (Mixup), Yun et al. 2019 (CutMix); Liu et al. 2022, Table 5 (0.8, 1).
    """

    def __init__(self, alpha: float, cutmix: float, smoothing: float, num_classes: int) -> None:
        if min(alpha, cutmix) < 0:
            raise ValueError(f"mixup {alpha}, cutmix {cutmix}: strengths must be 0 (off) or above")
        if not 0 <= smoothing < 1:
            raise ValueError(f"label smoothing {smoothing}: give a value from 0 up to 1")
        self.num_classes = num_classes
        self.smoothing = smoothing
        self.mixes = alpha > 0 or cutmix > 0
        if self.mixes:
            from timm.data.mixup import Mixup as BatchMixup

            self._mixup = BatchMixup(
                mixup_alpha=alpha,
                cutmix_alpha=cutmix,
                label_smoothing=smoothing,
                num_classes=num_classes,
            )

    def __call__(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Mix (N, C, H, W) images with (N,) int64 labels; returns images and (N, K) targets."""
        if not self.mixes:
            return image, smooth_targets(label, self.num_classes, self.smoothing)
        if len(image) % 2:
            raise ValueError(
                f"mixup pairs the images of a batch: {len(image)} cannot be paired; "
                "use an even micro-batch size"
            )
        image, target = self._mixup(image, label)
        return image, target


def smooth_targets(label: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """One-hot rows with `smoothing` spread evenly: smoothing / K, plus 1 - smoothing at the label.

    Returns:
        (N, K) float32 on the device of `label`.
    """
    target = nn.functional.one_hot(label, num_classes).to(torch.float32)
    return target * (1 - smoothing) + smoothing / num_classes
