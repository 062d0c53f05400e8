"""Scores of masks agree with scikit-learn and torchmetrics, and with the formulas written out."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as sk
from torchmetrics.classification import MulticlassJaccardIndex

from convnext.evaluate.segmentation import SegmentationMetrics, confusion_counts
from convnext.evaluate.segmentation_result import SegmentationResult

NAMES = tuple("abcdefghij")


def random_maps(num_images, num_classes, *, seed=0, ignored=0.1, absent=()):
    """Pairs (said, truth) of several sizes; of the classes in `absent` there is none."""
    random = np.random.default_rng(seed)
    there = [k for k in range(num_classes) if k not in absent]
    maps = []
    for number in range(num_images):
        size = (11 + number, 17)
        truth = random.choice(there, size).astype(np.int16)
        said = np.where(random.random(size) < 0.6, truth, random.choice(there, size))
        truth[random.random(size) < ignored] = -1
        maps.append((said.astype(np.int64), truth))
    return maps


def evaluate(maps, num_classes, order=None):
    metrics = SegmentationMetrics([str(k) for k in range(num_classes)])
    for number in range(len(maps)) if order is None else order:
        metrics.update(*maps[number], number)
    return metrics.compute()


def joined(maps):
    said = np.concatenate([s.ravel() for s, _ in maps])
    truth = np.concatenate([t.ravel() for _, t in maps])
    return said, truth


def scaled(scores):
    return [np.nan if score is None else score / 100 for score in scores]


@pytest.mark.parametrize(("num_classes", "absent"), [(2, ()), (7, (2, 6)), (40, (0,))])
def test_scores_agree_with_scikit_learn_and_torchmetrics(num_classes, absent):
    maps = random_maps(5, num_classes, absent=absent)
    result = evaluate(maps, num_classes)
    said, truth = joined(maps)
    counted = truth >= 0
    y, p, labels = truth[counted], said[counted], range(num_classes)
    np.testing.assert_array_equal(result.confusion, sk.confusion_matrix(y, p, labels=labels))
    assert result.confusion.dtype == np.int64
    assert result.ignored == (~counted).sum()
    assert result.num_pixels == counted.sum()
    assert result.pixels == tuple(np.bincount(y, minlength=num_classes))
    assert result.said == tuple(np.bincount(p, minlength=num_classes))
    iou = sk.jaccard_score(y, p, labels=labels, average=None, zero_division=0)
    iou[list(absent)] = np.nan  # that is neither in y nor in p
    np.testing.assert_allclose(scaled(result.iou), iou)
    _, recall, f1, _ = sk.precision_recall_fscore_support(y, p, labels=labels, zero_division=np.nan)
    np.testing.assert_allclose(scaled(result.dice), f1)
    np.testing.assert_allclose(scaled(result.accuracy), recall)
    assert result.pixel_accuracy == pytest.approx(100 * sk.accuracy_score(y, p))
    assert result.mean_accuracy == pytest.approx(100 * np.nanmean(recall))
    assert result.mean_dice == pytest.approx(100 * np.nanmean(f1))
    weighted = sk.jaccard_score(y, p, labels=labels, average="weighted", zero_division=0)
    assert result.frequency_weighted_iou == pytest.approx(100 * weighted)
    assert result.miou == pytest.approx(100 * np.nanmean(iou))
    other = MulticlassJaccardIndex(num_classes, average="macro", ignore_index=255)
    other.update(torch.from_numpy(said), torch.from_numpy(np.where(counted, truth, 255)))
    assert result.miou == pytest.approx(100 * float(other.compute()), abs=1e-4)


def test_of_one_class_all_is_right():
    result = evaluate(random_maps(2, 1), 1)
    assert set(result.scalars().values()) == {100.0}
    assert result.confusion.tolist() == [[result.num_pixels]]
    assert result.ignored > 0


def test_a_class_that_was_only_said_counts_and_one_that_is_nowhere_does_not():
    """Truth of a and b, d said once: IoUs 2/3, 2/3 and 0, none of c."""
    truth = np.array([[0, 0, 0, 1, 1, 1]])
    said = np.array([[0, 0, 3, 1, 1, 0]])
    metrics = SegmentationMetrics(NAMES[:4])
    metrics.update(said, truth, 0)
    result = metrics.compute()
    assert result.iou == pytest.approx((50.0, 200 / 3, None, 0.0))
    assert result.dice == pytest.approx((200 / 3, 80.0, None, 0.0))
    assert result.accuracy == pytest.approx((200 / 3, 200 / 3, None, None))
    assert result.miou == pytest.approx((50 + 200 / 3) / 3)
    assert result.mean_accuracy == pytest.approx(200 / 3)
    assert result.images[0].miou == result.miou
    assert result.images[0].accuracy == result.pixel_accuracy == pytest.approx(200 / 3)


def test_scores_of_images_are_those_of_sets_of_one_image():
    maps = random_maps(6, 5)
    result = evaluate(maps, 5)
    for image, pair in zip(result.images, maps, strict=True):
        alone = evaluate([pair], 5)
        assert image.miou == pytest.approx(alone.miou)
        assert image.accuracy == pytest.approx(alone.pixel_accuracy)
        assert image.pixels == alone.num_pixels
    worst = result.worst(3)
    assert [image.miou for image in worst] == sorted(image.miou for image in result.images)[:3]


@given(
    st.integers(1, 6).flatmap(
        lambda k: st.tuples(
            st.just(k),
            hnp.arrays(np.int16, (3, 4, 5), elements=st.integers(-2, k - 1)),
            hnp.arrays(np.uint8, (3, 4, 5), elements=st.integers(0, k - 1)),
        )
    )
)
@settings(max_examples=60, deadline=None)
def test_properties(case):
    k, truths, said = case
    result = evaluate(list(zip(said, truths, strict=True)), k)
    backwards = evaluate(list(zip(said, truths, strict=True)), k, order=(2, 0, 1))
    np.testing.assert_array_equal(result.confusion, backwards.confusion)
    assert result.images == backwards.images
    assert result.num_pixels + result.ignored == truths.size
    for iou, dice, accuracy in zip(result.iou, result.dice, result.accuracy, strict=True):
        assert (iou is None) == (dice is None)
        if iou is not None:
            assert dice == pytest.approx(200 * iou / (100 + iou))
            assert 0 <= iou <= dice <= 100
        assert accuracy is None or accuracy >= (iou or 0) - 1e-9
    right = evaluate([(np.maximum(t, 0), t) for t in truths], k)
    for score in right.scalars().values():
        assert score == pytest.approx(100)
    swapped = evaluate(
        [
            (np.maximum(t, 0), np.where(t < 0, -1, s))
            for s, t in zip(said.astype(np.int16), truths, strict=True)
        ],
        k,
    )
    np.testing.assert_array_equal(swapped.confusion, result.confusion.T)
    assert swapped.iou == result.iou


def test_ignored_pixels_count_for_nothing():
    metrics = SegmentationMetrics(NAMES[:2])
    metrics.update(np.ones((4, 4), np.int64), np.full((4, 4), -1, np.int16), 3)
    result = metrics.compute()
    assert result.images[0].miou is None
    assert result.images[0].accuracy is None
    assert result.worst(5) == ()
    assert result.scalars() == {}
    assert result.ignored == 16
    assert result.frequency_weighted_iou is None
    assert json.loads(json.dumps(result.to_json()))["per_class"][0]["iou"] is None


def test_tensors_arrays_and_padding():
    metrics = SegmentationMetrics(NAMES[:3])
    truth = torch.tensor([[0, 1, 2, -1]], dtype=torch.int16)
    metrics.update(torch.tensor([[0, 1, 1, 1]]), truth, 0)
    frozen = np.array([[2, 2, 2, 2]], dtype=np.uint8)
    frozen.flags.writeable = False
    metrics.update(frozen, truth.numpy()[:, ::-1], 1)
    metrics.update(frozen, truth, -1)
    result = metrics.compute()
    assert result.confusion.tolist() == [[1, 0, 1], [0, 1, 1], [0, 1, 1]]
    assert result.num_images == 2


def test_counts_beyond_32_bits():
    """Three images of 2^31 pixels each, made by repeating one map."""
    metrics = SegmentationMetrics(NAMES[:2])
    wide = np.broadcast_to(np.array([[0, 1]], np.int16), (8, 2))
    metrics.update(wide, wide, 0)
    metrics._confusion *= 2**29
    metrics.update(wide, 1 - wide, 1)
    result = metrics.compute()
    assert result.confusion.tolist() == [[2**32, 8], [8, 2**32]]
    assert result.num_pixels == 2**33 + 16
    assert result.iou == pytest.approx((100 * 2**32 / (2**32 + 16),) * 2)
    big = SegmentationResult(
        class_names=("a", "b"),
        confusion=np.array([[2**61, 0], [0, 2**61]]),
        images=(),
        ignored=0,
    )
    assert big.miou == 100
    assert big.mean_dice == 100


def test_large_maps_are_counted_in_parts(monkeypatch):
    said, truth = random_maps(1, 4)[0]
    whole = confusion_counts(said, truth, 4)
    monkeypatch.setattr("convnext.evaluate.segmentation.CHUNK", 7)
    np.testing.assert_array_equal(confusion_counts(said, truth, 4), whole)
    assert whole.shape == (5, 4)
    assert whole.sum() == truth.size


@pytest.mark.parametrize(
    ("said", "truth", "message"),
    [
        ([[0, 3]], [[0, 1]], "image 4: the prediction holds class 3, outside 0..2"),
        ([[0, -1]], [[0, 1]], "image 4: the prediction holds class -1; classes start at 0"),
        ([[0, 1]], [[0, 255]], "image 4: the truth holds class 255, outside 0..2"),
        ([[0, 1]], [[0], [1]], "a prediction of \\(1, 2\\) for a truth of \\(2, 1\\)"),
        ([[0.0, 1.0]], [[0, 1]], "the prediction holds float64, not integers"),
    ],
)
def test_mistakes(said, truth, message):
    metrics = SegmentationMetrics(NAMES[:3])
    with pytest.raises(ValueError, match=message):
        metrics.update(np.array(said), np.array(truth), 4)


def test_too_few_and_too_many_classes_and_nothing_to_score():
    with pytest.raises(ValueError, match="0 classes: segmentation is scored for 1 to 4,096"):
        SegmentationMetrics([])
    with pytest.raises(ValueError, match="5,000 classes"):
        SegmentationMetrics([""] * 5000)
    with pytest.raises(ValueError, match="no image with a mask"):
        SegmentationMetrics(["a"]).compute()


def test_json_holds_the_numbers():
    result = evaluate(random_maps(3, 4), 4)
    values = json.loads(json.dumps(result.to_json()))
    assert values["miou"] == result.miou
    assert values["confusion"] == result.confusion.tolist()
    assert [row["iou"] for row in values["per_class"]] == list(result.iou)
    assert values["worst"][0]["index"] == result.worst(1)[0].index
    many = evaluate([(np.zeros((2, 2), int), np.zeros((2, 2), int))], 300)
    assert "confusion" not in many.to_json()
    pairs = result.confusion_pairs
    assert (result.confusion[pairs[:, 0], pairs[:, 1]] == pairs[:, 2]).all()
    assert len(pairs) == (result.confusion > 0).sum()
