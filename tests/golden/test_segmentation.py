"""A small UPerNet with closed-form weights gives the numbers of the published code, in float64.

The numbers of `upernet.json` were computed once by the code base on which the published results
rest, with the same weights and images.
"""

import json
from pathlib import Path

import pytest
import torch
from closed_form import PADDED, close, fill, images

from convnext.models.registry import build_model
from convnext.models.segmentation.sliding import Windows, slide, whole
from convnext.models.upernet import UPerNet, UPerNetConfig

CLASSES = 7


@pytest.fixture(scope="module")
def golden():
    return json.loads((Path(__file__).parent / "upernet.json").read_text())


@pytest.fixture(scope="module")
def model():
    config = UPerNetConfig(num_classes=CLASSES, head_dim=32, aux_dim=16, dropout=0.0)
    small = {"depths": (1, 1, 2, 1), "dims": (16, 32, 64, 128)}
    body = build_model("convnext_tiny", features_only=True, num_classes=0, **small)
    return fill(UPerNet(config, body).double()).eval()


def test_size(model, golden):
    assert len([name for name in model.state_dict() if ".body.head" not in name]) == golden["keys"]
    assert sum(p.numel() for p in model.parameters()) == golden["params"]


@torch.no_grad()
def test_logits_of_the_whole_image(model, golden):
    logits = model(images())
    close(logits.sum(), golden["logits_sum"])
    close(logits.abs().mean(), golden["logits_abs_mean"])
    close(logits[0, :, 10, 20], golden["logits_0_:_10_20"])
    counts = logits.argmax(1).flatten().bincount(minlength=CLASSES)
    assert counts.tolist() == golden["argmax_hist"]


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 2])
def test_logits_of_windows(model, golden, batch):
    def seen(image):
        def read(top, left, height, width):
            return image[:, top : top + height, left : left + width]

        size = (PADDED, PADDED)
        return whole(slide(model, read, size, Windows(64, 43), CLASSES, batch=batch), size)

    logits = torch.stack([seen(image) for image in images()])
    close(logits.sum(), golden["slide_64_43_sum"])
    close(logits.abs().mean(), golden["slide_abs_mean"])
    close(logits[1, :, 100, 90], golden["slide_1_:_100_90"])
