"""Scores agree with scikit-learn and torchmetrics, whatever the batches, ranks and padding."""

import json

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torchmetrics import functional as tm

from convnext.evaluate import classification
from convnext.evaluate.classification import ClassificationMetrics, wilson_interval


def random_set(num_images, num_classes, *, seed=0, skill=1.5):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, num_classes, (num_images,), generator=generator)
    logits = 2 * torch.randn(num_images, num_classes, generator=generator)
    logits[torch.arange(num_images), labels] += skill
    return logits, labels


def evaluate(logits, labels, *, batch_size=64, order=None, **kwargs):
    metrics = ClassificationMetrics(logits.shape[1], **kwargs)
    index = torch.arange(len(labels)) if order is None else order
    for rows in index.split(batch_size):
        metrics.update(logits[rows], labels[rows], rows)
    return metrics.compute()


@pytest.mark.parametrize("num_classes", [2, 3, 7, 40])
def test_scores_agree_with_scikit_learn_and_torchmetrics(num_classes):
    logits, labels = random_set(501, num_classes)
    result = evaluate(logits, labels)
    probs, pred = logits.softmax(1), logits.argmax(1)
    y, p = labels.numpy(), pred.numpy()

    assert result.num_images == 501
    assert result.top1 == pytest.approx(100 * sk.accuracy_score(y, p))
    top_k = tm.accuracy(
        logits, labels, "multiclass", num_classes=num_classes, top_k=result.k, average="micro"
    )
    assert result.k == min(5, num_classes)
    assert result.top5 == pytest.approx(100 * float(top_k), abs=1e-4)
    assert result.loss == pytest.approx(sk.log_loss(y, logits.double().softmax(1)), rel=1e-5)
    assert result.balanced_accuracy == pytest.approx(100 * sk.balanced_accuracy_score(y, p))
    precision, recall, f1, count = sk.precision_recall_fscore_support(
        y, p, labels=range(num_classes), zero_division=np.nan
    )
    for i, score in enumerate(result.per_class):
        assert score.count == count[i]
        expected = [precision[i], recall[i], f1[i]]
        got = [score.precision, score.recall, score.f1]
        np.testing.assert_allclose([np.nan if v is None else v for v in got], expected)
    assert result.macro_f1 == pytest.approx(np.nanmean(f1))
    np.testing.assert_array_equal(
        result.confusion, sk.confusion_matrix(y, p, labels=range(num_classes))
    )
    assert result.confusion.dtype == np.int64
    ece = tm.calibration_error(
        probs, labels, "multiclass", num_classes=num_classes, n_bins=15, norm="l1"
    )
    assert result.ece == pytest.approx(float(ece), abs=1e-6)


def test_two_classes_have_ranking_scores_that_agree_with_scikit_learn():
    logits, labels = random_set(300, 2)
    logits = logits.round()  # many tied scores
    result = evaluate(logits, labels)
    score = (logits[:, 1] - logits[:, 0]).numpy()
    assert result.roc_auc == pytest.approx(sk.roc_auc_score(labels, score))
    assert result.average_precision == pytest.approx(sk.average_precision_score(labels, score))

    only_zero = evaluate(logits, torch.zeros_like(labels))
    assert only_zero.roc_auc is None
    assert only_zero.average_precision is None
    assert "roc_auc" not in only_zero.scalars()
    assert evaluate(*random_set(30, 3)).roc_auc is None


def test_a_class_without_images_has_no_recall_and_does_not_enter_the_means():
    logits = torch.eye(4)[[0, 0, 1, 1]] * 5  # predictions 0 0 1 1; classes 2 and 3 never
    result = evaluate(logits, torch.tensor([0, 0, 1, 2]), class_names=["a", "b", "c", "d"])
    a, b, c, d = result.per_class
    assert (a.count, a.precision, a.recall, a.f1) == (2, 1.0, 1.0, 1.0)
    assert (b.count, b.predicted, b.precision, b.recall) == (1, 2, 0.5, 1.0)
    assert (c.count, c.predicted, c.precision, c.recall, c.f1) == (1, 0, None, 0.0, 0.0)
    assert (d.count, d.predicted, d.precision, d.recall, d.f1) == (0, 0, None, None, None)
    assert result.balanced_accuracy == pytest.approx(100 * 2 / 3)
    assert result.majority_class == 0
    assert result.majority_top1 == 50.0
    assert result.most_confused(5) == [(2, 1, 1)]
    assert result.confusion[3].sum() == 0


def test_padding_batches_and_order_change_nothing():
    logits, labels = random_set(200, 5)
    reference = evaluate(logits, labels)
    shuffled = evaluate(
        logits, labels, batch_size=7, order=torch.randperm(200, generator=torch.Generator())
    )
    metrics = ClassificationMetrics(5)
    for rows in torch.arange(200).split(64):
        padded = torch.cat([rows, torch.tensor([-1, -1])])
        metrics.update(logits[padded], labels[padded], padded)
    assert shuffled.to_json() == reference.to_json()
    assert metrics.compute().to_json() == reference.to_json()


def test_result_is_json_without_nan():
    logits, labels = random_set(20, 3)
    logits[0, labels[0]] = -torch.inf  # a masked class makes the loss infinite
    text = json.dumps(evaluate(logits, labels, calibration=False).to_json(), allow_nan=False)
    assert json.loads(text)["loss"] is None
    assert json.loads(text)["temperature"] is None


def test_equal_logits_are_one_guess_not_a_hit_for_every_class():
    result = evaluate(torch.zeros(60, 6), torch.arange(60) % 6)
    assert result.top1 == pytest.approx(100 / 6)
    assert result.top5 == pytest.approx(500 / 6)


def test_examples_are_the_most_confident_mistakes_and_right_answers():
    logits, labels = random_set(400, 4)
    result = evaluate(logits, labels)
    confidence, pred = logits.softmax(1).max(1)
    wrong = torch.nonzero(pred != labels)[:, 0]
    ranked = wrong[confidence[wrong].argsort(descending=True)][: len(result.worst)]
    assert [e.index for e in result.worst] == ranked.tolist()
    assert result.worst[0].confidence == pytest.approx(float(confidence[ranked[0]]))
    assert all(e.pred == int(pred[e.index]) != e.label for e in result.worst)
    assert result.correct
    assert all(e.pred == e.label == int(labels[e.index]) for e in result.correct)


def test_interval_of_top1_is_wilsons():
    # Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I.
    assert wilson_interval(81, 263) == pytest.approx((25.53, 36.62), abs=0.005)
    assert wilson_interval(15, 148) == pytest.approx((6.24, 16.05), abs=0.005)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 16.11), abs=0.005)
    assert wilson_interval(1, 29) == pytest.approx((0.61, 17.18), abs=0.005)


def test_kept_logits_are_bounded_and_a_function_of_the_images(monkeypatch):
    monkeypatch.setattr(classification, "MAX_KEPT_LOGITS", 40 * 3)
    logits, labels = random_set(500, 3)
    metrics = ClassificationMetrics(3)
    for rows in torch.arange(500).split(50):
        metrics.update(logits[rows], labels[rows], rows)
        assert sum(len(kept) for _, _, kept in metrics._sample.batches) <= 40
    fit = metrics.compute().temperature
    assert 20 <= fit.num_fit + fit.num_measured <= 40
    backwards = evaluate(logits, labels, batch_size=9, order=torch.arange(499, -1, -1))
    assert backwards.temperature == fit


def test_21k_classes_need_no_dense_matrix():
    num_classes = 21_841
    metrics = ClassificationMetrics(num_classes)
    labels = torch.tensor([0, 5, 21_840])
    logits = torch.zeros(3, num_classes)
    logits[torch.arange(3), torch.tensor([0, 5, 7])] = 9.0
    metrics.update(logits, labels, torch.arange(3))
    result = metrics.compute()
    assert result.confusion_pairs.tolist() == [[0, 0, 1], [5, 5, 1], [21_840, 7, 1]]
    assert "confusion" not in result.to_json()
    with pytest.raises(ValueError, match=r"21,841 classes .* confusion_pairs"):
        _ = result.confusion


def test_users_mistakes_are_named():
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        ClassificationMetrics(1)
    with pytest.raises(ValueError, match="2 class names for 3 classes"):
        ClassificationMetrics(3, ["a", "b"])
    metrics = ClassificationMetrics(3)
    with pytest.raises(ValueError, match="nothing to evaluate"):
        metrics.compute()
    one = torch.tensor([4])
    with pytest.raises(ValueError, match=r"\(1, 5\) do not fit 3 classes"):
        metrics.update(torch.zeros(1, 5), one, one)
    with pytest.raises(ValueError, match=r"label 4 of image 4 is outside 0\.\.2"):
        metrics.update(torch.zeros(1, 3), one, one)
    with pytest.raises(ValueError, match="NaN for image 4"):
        metrics.update(torch.full((1, 3), torch.nan), torch.tensor([0]), one)
