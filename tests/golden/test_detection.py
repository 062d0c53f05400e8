"""Small detectors with closed-form weights give the numbers of the published code, in float64.

The numbers of the `.json` files were computed once by the code base on which the published results
rest, with the same weights and images.
"""

import json
from pathlib import Path

import pytest
import torch
from closed_form import PADDED, SIZES, close, fill, images

from convnext.models.detection import rpn
from convnext.models.detection.masks import paste
from convnext.models.mask_rcnn import MaskRCNN, MaskRCNNConfig, Target
from convnext.models.registry import build_model

BOXES = [
    [[10, 12, 50, 60], [40, 30, 110, 90], [70, 5, 90, 25]],
    [[5, 60, 45, 120], [30, 20, 95, 70]],
]
LABELS = [[0, 3, 1], [4, 2]]


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
    return fill(model)


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
