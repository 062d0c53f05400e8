"""Do the graphs of a network compute what the network computes?"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from convnext.deploy.detector import LEVELS
from convnext.deploy.detector_host import OnnxDetector
from convnext.deploy.preparing import ready
from convnext.deploy.segmenter_host import ExportedSegmenter
from convnext.models.mask_rcnn import MaskRCNN
from convnext.models.upernet import UPerNet

__all__ = ["Difference", "Differences", "compare_detector", "compare_segmenter"]

MOST_MASKS = 20
# Where two classes or two levels are nearly equal a proposal of a cascade may go another way.
SHARE = 0.99
SIZES = ((160, 192), (75, 233), (32, 64))  # none is what is traced


class Difference(NamedTuple):
    """How far apart graph and network are.

    Attributes:
        what: is compared.
        value: the difference.
        limit: what rounding in fp32 explains.
        unit: of both.
    """

    what: str
    value: float
    limit: float
    unit: str = ""


@dataclass(frozen=True)
class Differences:
    """Between graphs and network on the same input."""

    parts: tuple[Difference, ...]

    @property
    def small(self) -> bool:
        """Whether they are what rounding in fp32 explains."""
        return all(part.value <= part.limit for part in self.parts)

    def __str__(self) -> str:
        first, *others = self.parts
        start = f"{first.what} differ by {first.value:.1e}{first.unit}"
        return ", ".join([start, *(f"{p.what} by {p.value:.1e}{p.unit}" for p in others)])


@torch.no_grad()
def compare_segmenter(model: UPerNet, folder: str | Path, *, seed: int = 0) -> Differences:
    """Run the graph beside the network on noise of several sizes.

    Args:
        model: it is not changed.
        folder: of `export_segmenter`.
        seed: of the noise.

    Returns:
        The largest difference of logits, relative to their range.

    Raises:
        ValueError: the folder is no exported segmentation network.
        OSError: a file cannot be read.
    """
    host, bare = ExportedSegmenter(folder), ready(model)
    noise = torch.Generator().manual_seed(seed)
    worst = 0.0
    for number, size in enumerate(SIZES, 1):
        images = torch.randn(number, bare.config.in_chans, *size, generator=noise)
        expected = bare(images)
        scale = float(expected.max() - expected.min()) + 1e-12
        worst = max(worst, _largest(host.run(images.numpy()), expected) / scale)
    return Differences((Difference("logits", worst, 1e-4, " of their range"),))


@torch.no_grad()
def compare_detector(
    model: MaskRCNN, folder: str | Path, *, size: tuple[int, int] = (192, 256), seed: int = 0
) -> Differences:
    """Run every graph beside its part of the detector on noise.

    Args:
        model: it is not changed.
        folder: of `export_detector`.
        size: height and width of the image, multiples of 32.
        seed: of the noise.

    Returns:
        What 99 of 100 proposals stay below: of boxes, of the probabilities of classes and of the
        pixels of masks (0 without masks). And of the levels and the outputs of the proposal network
        the largest difference, relative to their largest value.

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
        (
            Difference("boxes", _most(seen["boxes"], boxes), 0.01, " px"),
            Difference("probabilities", _most(seen["probabilities"], probabilities), 1e-3),
            Difference("masks", masks, 1e-3),
            Difference("features", max(dense), 1e-3, " of their largest"),
        )
    )


def _largest(found: object, expected: Tensor) -> float:
    return float((torch.as_tensor(found) - expected).abs().max())


def _most(found: object, expected: Tensor) -> float:
    """What the largest difference of most rows does not exceed."""
    rows = (torch.as_tensor(found) - expected).abs().flatten(1).amax(1)
    return float(rows.quantile(SHARE))
