"""A detector as a function of pictures, seen once or in several views."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from convnext.data.config import DetectionDataConfig
from convnext.data.detection.dataset import collate
from convnext.data.detection.transforms import eval_steps
from convnext.data.pixels import apply_to_pixels, to_pixels
from convnext.models.detection.views import View, detect_views
from convnext.models.mask_rcnn import Detections, MaskRCNN
from convnext.train.batch import to_device

__all__ = ["detect_batch", "detect_picture"]

VIEW_SIZES = (0.75, 1.0, 1.25)  # of the usual size; each also mirrored


@torch.no_grad()
def detect_batch(
    network: MaskRCNN, batch: dict[str, Any], device: torch.device
) -> list[Detections]:
    """The objects in a batch of detection data, in pixels of the originals, on the CPU."""
    on_device = to_device(batch, device, channels_last=True)
    found = network.detect(on_device["image"], on_device["size"], on_device["original"])
    return [_on_cpu(detections) for detections in found]


@torch.no_grad()
def detect_picture(
    network: MaskRCNN, picture: Image.Image, data: DetectionDataConfig, device: torch.device
) -> Detections:
    """The objects in a picture that is seen at three sizes and mirrored.

    Args:
        network: In evaluation mode.
        picture: In the colours that the network takes.
        data: How pictures become tensors.
        device: Where the network is.
    """
    views: list[View] = []
    size = (picture.height, picture.width)
    for factor in VIEW_SIZES:
        config = replace(
            data,
            min_size=max(32, round(factor * data.min_size)),
            max_size=max(32, round(factor * data.max_size)),
        )
        pixels = apply_to_pixels(to_pixels(picture), eval_steps(*size, config))
        for mirrored, shown in ((False, pixels), (True, pixels.flip(-1))):
            batch = to_device(dict(collate([(shown, size)], config)), device, channels_last=True)
            views.append(View(batch["image"], batch["size"][0], mirrored))
    return _on_cpu(detect_views(network, views, torch.tensor(size, device=device)))


def _on_cpu(detections: Detections) -> Detections:
    parts: Sequence[Tensor | None] = detections
    boxes, scores, labels, masks = (None if p is None else p.cpu() for p in parts)
    assert boxes is not None
    assert scores is not None
    assert labels is not None
    return Detections(boxes, scores, labels, masks)
