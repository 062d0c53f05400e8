"""What is left of overlapping boxes, against loops that follow the definitions."""

import pytest
import torch

from convnext.models.detection.boxes import iou
from convnext.models.detection.nms import best_of_classes

CLASSES = 3


@pytest.fixture
def candidates():
    """Boxes (40, 3, 4) in heaps, and probabilities (40, 4) with those of background."""
    corners = torch.randint(0, 3, (40, CLASSES, 2)) * 20 + 5 * torch.rand(40, CLASSES, 2)
    boxes = torch.cat([corners, corners + 15 + 10 * torch.rand(40, CLASSES, 2)], -1)
    return boxes, torch.softmax(2 * torch.randn(40, CLASSES + 1), -1)


def naive(boxes, probabilities, threshold, *, soft):
    """(label, score, box) of what is left, best first: the best of a class lowers all others."""
    found = []
    for label in range(CLASSES):
        pairs = zip(probabilities[:, label].tolist(), boxes[:, label], strict=True)
        left = [[score, box] for score, box in pairs if score > threshold]
        while left:
            best = max(left, key=lambda pair: pair[0])
            left = [pair for pair in left if pair is not best]
            found.append((label, *best))
            for pair in left:
                overlap = float(iou(best[1][None], pair[1][None]))
                if overlap > 0.5:
                    pair[0] *= 1 - overlap if soft else 0
    return sorted([f for f in found if f[1] > threshold], key=lambda f: -f[1])


@pytest.mark.parametrize("soft", [False, True])
def test_against_a_naive_loop(candidates, soft):
    boxes, probabilities = candidates
    expected = naive(boxes, probabilities, 0.05, soft=soft)
    found, scores, labels = best_of_classes(
        boxes, probabilities, threshold=0.05, most=99, soft=soft
    )
    assert labels.tolist() == [label for label, _, _ in expected]
    assert scores.tolist() == pytest.approx([score for _, score, _ in expected], rel=1e-5)
    assert torch.equal(found, torch.stack([box for _, _, box in expected]))
    assert 10 < len(found) < int((probabilities[:, :-1] > 0.05).sum())
    few = best_of_classes(boxes, probabilities, threshold=0.05, most=5, soft=soft)
    assert torch.equal(few[1], scores[:5])


def test_soft_suppression_keeps_what_hard_suppression_drops(candidates):
    hard, soft = (best_of_classes(*candidates, threshold=0.05, most=99, soft=s) for s in (0, 1))
    assert len(soft[0]) > len(hard[0])


@pytest.mark.parametrize("soft", [False, True])
def test_what_is_no_number_is_no_detection(candidates, soft):
    boxes, probabilities = candidates
    whole = best_of_classes(boxes[5:], probabilities[5:], threshold=0.05, most=99, soft=soft)
    boxes[0, :, 2], boxes[1, :, 0], boxes[2, :, 3] = torch.nan, -torch.inf, torch.inf
    probabilities[3:5] = torch.nan
    probabilities[:3, :-1] = 0.9
    found = best_of_classes(boxes, probabilities, threshold=0.05, most=99, soft=soft)
    assert all(torch.equal(one, other) for one, other in zip(found, whole, strict=True))
    none = best_of_classes(boxes[:5], probabilities[:5], threshold=0.05, most=99, soft=soft)
    assert [part.shape for part in none] == [(0, 4), (0,), (0,)]
