"""The segmentation task learns: a few pictures by heart, from random weights."""

import numpy as np
import pytest
import torch

from convnext.evaluate.segmentation import SegmentationMetrics
from convnext.tasks.segment import SegmentConfig, SegmentTask
from shapes import CLASSES, draw_shapes


@pytest.mark.slow
def test_six_pictures_by_heart():
    random = np.random.RandomState(0)
    images, masks = [], []
    for _ in range(6):
        pixels, labels, parts = draw_shapes(random, 64, 64)
        mask = np.zeros((64, 64), np.int64)
        for label, part in zip(labels, parts, strict=True):
            mask[part > 0] = label + 1
        images.append(torch.from_numpy(pixels).permute(2, 0, 1).float() / 128 - 1)
        masks.append(torch.from_numpy(mask))
    batch = {"image": torch.stack(images), "mask": torch.stack(masks)}

    torch.manual_seed(0)
    config = SegmentConfig(
        model="upernet_convnextv2_atto",
        model_args={"head_dim": 48, "aux_dim": 0},
        body_args={"depths": [1, 1, 1, 1], "dims": [24, 48, 64, 96]},
        loss_mean="labelled",
    )
    task = SegmentTask(config, num_classes=len(CLASSES) + 1)
    optimizer = torch.optim.AdamW(task.parameters(), lr=2e-3)
    for _ in range(200):
        task(batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

    with torch.no_grad():
        found = task.eval().network(batch["image"]).argmax(1)
    metrics = SegmentationMetrics(("background", *CLASSES))
    for i, (said, truth) in enumerate(zip(found, batch["mask"], strict=True)):
        metrics.update(said, truth, i)
    miou = metrics.compute().miou
    assert miou is not None
    assert miou > 80  # percent; about 22 where all is said to be background
