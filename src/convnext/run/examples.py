"""Pictures for the report: single images with what spoke for the predicted class."""

from collections.abc import Sequence

import torch

from convnext.data import ImageDataset
from convnext.data.transforms import EvalTransform
from convnext.evaluate.cam import grad_cam, overlay, seen_image
from convnext.evaluate.result import Prediction
from convnext.models.backbone import Backbone
from convnext.report.data import Example, thumbnail

__all__ = ["examples"]

BATCH = 8  # images whose class activation maps are computed together


def examples(
    predictions: Sequence[Prediction],
    dataset: ImageDataset,
    network: Backbone,
    classes: Sequence[str],
    device: torch.device,
) -> list[Example]:
    """Predictions as gallery entries: the image as the network saw it, and its Grad-CAM."""
    transform = dataset.transform
    assert isinstance(transform, EvalTransform), "examples show images without augmentation"
    mean, std = (
        tuple(t.flatten().tolist()) for t in (transform.normalise.mean, transform.normalise.std)
    )
    found = []
    for start in range(0, len(predictions), BATCH):
        part = predictions[start : start + BATCH]
        images = torch.stack([dataset[p.index]["image"] for p in part])
        said = torch.tensor([p.pred for p in part])
        cams = grad_cam(network, images.to(device), said)
        for prediction, image, cam in zip(part, images, cams, strict=True):
            picture = seen_image(image, mean, std)
            found.append(
                Example(
                    name=dataset.source.key(prediction.index),
                    true=classes[prediction.label],
                    pred=classes[prediction.pred],
                    confidence=prediction.confidence,
                    image=thumbnail(picture),
                    cam=thumbnail(overlay(picture, cam)),
                )
            )
    return found
