"""Do the graphs of a detector compute what the detector computes?"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from convnext.deploy.detector import LEVELS, ready
from convnext.deploy.detector_host import OnnxDetector
from convnext.models.mask_rcnn import MaskRCNN

__all__ = ["Differences", "compare"]

MOST_MASKS = 20
LIMITS = {"levels": 1e-3, "boxes": 0.01, "probabilities": 1e-3, "masks": 1e-3}
# Where two classes or two levels are nearly equal a proposal of a cascade may go another way.
SHARE = 0.99


@dataclass(frozen=True, kw_only=True)
class Differences:
    """Between graphs and detector on the same image and proposals.

    All but the first are what 99 of 100 proposals stay below.

    Attributes:
        levels: of levels and outputs of the proposal network, relative to their largest value.
        boxes: of boxes in pixels.
        probabilities: of classes.
        masks: of the probabilities of pixels; 0 without masks.
    """

    levels: float
    boxes: float
    probabilities: float
    masks: float

    @property
    def small(self) -> bool:
        """Whether they are what rounding in fp32 explains."""
        return all(getattr(self, name) <= limit for name, limit in LIMITS.items())

    def __str__(self) -> str:
        return (
            f"boxes differ by {self.boxes:.1e} px, probabilities by {self.probabilities:.1e}, "
            f"masks by {self.masks:.1e}, features by {self.levels:.1e} of their largest"
        )


@torch.no_grad()
def compare(
    model: MaskRCNN, folder: str | Path, *, size: tuple[int, int] = (192, 256), seed: int = 0
) -> Differences:
    """Run every graph beside its part of the detector on noise.

    Args:
        model: it is not changed.
        folder: of `export_detector`.
        size: height and width of the image, multiples of 32.
        seed: of the noise.

    Raises:
        ValueError: the folder is no exported detector.
        OSError: a file cannot be read.
    """
    host, bare = OnnxDetector(folder), ready(model)
    noise = torch.Generator().manual_seed(seed)
    images = torch.randn(1, bare.config.in_chans, *size, generator=noise)
    sizes = torch.tensor([size])
    levels, outputs = bare.dense(images)
    found = host.run("dense", images=images.numpy())
    expected = dict(zip(LEVELS, levels, strict=False))
    for i, (logits, deltas) in enumerate(outputs):
        expected |= {f"logits{i}": logits, f"deltas{i}": deltas}
    dense = [_largest(found[k], v) / float(v.abs().max() + 1e-12) for k, v in expected.items()]
    maps = {name: found[name] for name in LEVELS}

    proposals = bare.rpn_head.proposals(outputs, sizes)[0][:, :4]
    rois = torch.nn.functional.pad(proposals, (1, 0))
    (probabilities,), (boxes,) = bare.roi_head.scores(levels[:-1], sizes, [proposals])
    seen = host.run("roi", **maps, rois=rois.numpy(), sizes=sizes.float().numpy())
    masks = 0.0
    if bare.config.masks:
        few, labels = proposals[:MOST_MASKS], probabilities[:MOST_MASKS, :-1].argmax(1)
        (wanted,) = bare.roi_head.mask_probabilities(levels[:-1], [few], [labels])
        drawn = host.run("mask", **maps, rois=rois[:MOST_MASKS].numpy(), labels=labels.numpy())
        masks = _most(drawn["masks"], wanted)
    return Differences(
        levels=max(dense),
        boxes=_most(seen["boxes"], boxes),
        probabilities=_most(seen["probabilities"], probabilities),
        masks=masks,
    )


def _largest(found: object, expected: Tensor) -> float:
    return float((torch.as_tensor(found) - expected).abs().max())


def _most(found: object, expected: Tensor) -> float:
    """What the largest difference of most rows does not exceed."""
    rows = (torch.as_tensor(found) - expected).abs().flatten(1).amax(1)
    return float(rows.quantile(SHARE))
