"""Small detectors with closed-form weights give the numbers of the published code, in float64.

The numbers of the `.json` files were computed once by the code base on which the published results
rest, with the same weights and images.
"""

import json
import math
from pathlib import Path

import pytest
import torch

from convnext.models.detection import rpn
from convnext.models.detection.masks import paste
from convnext.models.mask_rcnn import MaskRCNN, MaskRCNNConfig, Target
from convnext.models.registry import build_model
from convnext.weights.layouts.official import OFFICIAL

BODY = "backbone.body."
SIZES = [(96, 120), (128, 100)]
PADDED = 128
BOXES = [
    [[10, 12, 50, 60], [40, 30, 110, 90], [70, 5, 90, 25]],
    [[5, 60, 45, 120], [30, 20, 95, 70]],
]
LABELS = [[0, 3, 1], [4, 2]]
GAINS = {"fc_cls": 5.0, "rpn_cls": 3.0, "conv_logits": 8.0, "fc_reg": 0.5, "rpn_reg": 0.5}


def official(name):
    if not name.startswith(BODY):
        return name
    ours = name.removeprefix(BODY)
    return "backbone." + next(iter(OFFICIAL.write({ours: torch.zeros(1)})))


def closed_form(name, shape, number):
    wave = torch.sin(0.7 * torch.arange(math.prod(shape), dtype=torch.float64) + number)
    wave = wave.reshape(shape)
    if name.endswith("gamma"):
        return 0.3 + 0.1 * wave
    if name.endswith("running_var"):
        return 1 + 0.3 * wave
    if len(shape) >= 2:
        gain = next((gain for part, gain in GAINS.items() if part in name), 1.0)
        return wave * gain * math.sqrt(2 / math.prod(shape[1:]))
    return 1 + 0.1 * wave if name.endswith("weight") else 0.1 * wave


def detector(cascade):
    config = MaskRCNNConfig(
        num_classes=5,
        cascade=cascade,
        fpn_dim=32,
        fc_dim=64,
        box_convs=2 if cascade else None,
        mask_convs=2,
        rpn_per_level=(300, 200),
        rpn_proposals=(100, 60),
        rpn_sampled=10**6,  # all: nothing is drawn
        roi_sampled=10**6,
    )
    small = {"depths": (1, 1, 2, 1), "dims": (16, 32, 64, 128)}
    body = build_model("convnext_tiny", features_only=True, num_classes=0, **small)
    model = MaskRCNN(config, body).double()
    state, number = {}, 0
    names = {official(name): name for name in model.state_dict() if ".body.head" not in name}
    for published, name in sorted(names.items()):
        shape = model.state_dict()[name].shape
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(0)
            continue
        state[name] = closed_form(published, shape, number)
        number += 1
    model.load_state_dict(state)
    return model


def images():
    batch = torch.zeros(2, 3, PADDED, PADDED, dtype=torch.float64)
    for i, (height, width) in enumerate(SIZES):
        y = torch.arange(height, dtype=torch.float64)[:, None]
        x = torch.arange(width, dtype=torch.float64)
        for c in range(3):
            wave = torch.cos(0.07 * x * (c + 1) + 0.3 * i)
            batch[i, c, :height, :width] = 2 * torch.sin(0.11 * y * (i + 1) + 0.7 * c) * wave
    return batch


def ellipses(boxes):
    place = torch.arange(PADDED) + 0.5
    masks = []
    for x1, y1, x2, y2 in boxes:
        x = (place - (x1 + x2) / 2) / (x2 - x1) * 2
        y = (place - (y1 + y2) / 2) / (y2 - y1) * 2
        masks.append(x**2 + y[:, None] ** 2 < 1)
    return torch.stack(masks).to(torch.uint8)


@pytest.fixture(scope="module", params=["mask_rcnn", "cascade_mask_rcnn"])
def case(request):
    path = Path(__file__).parent / f"{request.param}.json"
    return detector(request.param.startswith("cascade")), json.loads(path.read_text())


def close(found, expected, rtol=0.0, atol=1e-6):
    found = torch.as_tensor(found, dtype=torch.float64)
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)


def test_size(case):
    model, golden = case
    assert len([name for name in model.state_dict() if ".body.head" not in name]) == golden["keys"]
    assert sum(p.numel() for p in model.parameters()) == golden["params"]


def test_pyramid_and_proposals(case):
    model, golden = case
    model.eval()
    with torch.no_grad():
        levels, outputs = model.dense(images())
        found = model.rpn_head.proposals(outputs, torch.tensor(SIZES))
    close([level.abs().mean() for level in levels], golden["fpn_abs_mean"])
    assert [len(p) for p in found] == golden["n_proposals"]
    close(found[0][0], golden["proposal0_img0"])
    close(found[1][:, :4].sum(), golden["proposal_sum_img1"])


def test_detections_and_masks(case):
    model, golden = case
    model.eval()
    with torch.no_grad():
        found = model(images(), torch.tensor(SIZES))
    for detections, expected, size in zip(found, golden["det"], SIZES, strict=True):
        counts = detections.labels.bincount(minlength=5)
        assert counts.tolist() == expected["per_class"]
        for label, *box_and_score in expected["top"]:
            first = int((detections.labels == label).nonzero()[0])
            close([*detections.boxes[first], detections.scores[first]], box_and_score)
        close(detections.boxes.sum(), expected["box_sum"])
        close(detections.scores.sum(), expected["score_sum"])
        pairs = zip(detections.masks, detections.boxes, strict=True)
        areas = torch.tensor([int(paste(mask, box, size).sum()) for mask, box in pairs])
        by_class = [int(areas[detections.labels == label].sum()) for label in range(5)]
        assert by_class == expected["mask_area"]


def test_losses_and_gradients(case, monkeypatch):
    model, golden = case
    # There each image's own padding was said to be that of the batch.
    monkeypatch.setattr(rpn, "DIVISOR", PADDED)
    model.train()
    model.zero_grad()
    targets = [
        Target(torch.tensor(boxes, dtype=torch.float64), torch.tensor(labels), ellipses(boxes))
        for boxes, labels in zip(BOXES, LABELS, strict=True)
    ]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    losses = model(images(), torch.tensor(SIZES), targets)
    assert losses.keys() == golden["losses"].keys()
    for name, expected in golden["losses"].items():
        close(losses[name].detach(), expected)
    sum(losses.values()).backward()
    model.load_state_dict(state)  # batch norms have counted
    gradients = [p.grad for p in model.parameters()]
    assert all(g is not None for g in gradients)
    close(torch.nn.utils.get_total_norm(gradients), golden["grad_norm"], rtol=1e-6)
    stem = model.backbone.body.stem.conv.weight.grad.norm()
    close(stem, golden["grad_norm_stem"], rtol=1e-6)
