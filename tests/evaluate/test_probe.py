"""Frozen features: against scikit-learn, and where the answer is known."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from convnext.evaluate.probe import knn, linear_probe, standardised


def clusters(n=90, dim=6, classes=3, seed=0, spread=1.5):
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(9)) * 2
    y = torch.arange(n) % classes
    return centres[y] + torch.randn(n, dim, generator=g) * spread, y


def test_neighbours_agree_with_scikit_learn():
    (x, y), (q, _) = clusters(), clusters(40, seed=1)
    found = knn(x, y, q, num_classes=3, k=7, temperature=0.07)

    def weights(distance):  # cosine distance to the vote
        return torch.exp((1 - torch.from_numpy(distance)) / 0.07).numpy()

    peer = KNeighborsClassifier(7, metric="cosine", weights=weights).fit(x.numpy(), y.numpy())
    probabilities = torch.from_numpy(peer.predict_proba(q.numpy()))
    ours = (found / found.sum(1, keepdim=True)).double()
    torch.testing.assert_close(ours, probabilities, rtol=1e-3, atol=1e-4)


def test_more_neighbours_than_images():
    x, y = clusters(6)
    assert knn(x, y, x, num_classes=3, k=100).shape == (6, 3)


def test_the_linear_classifier_agrees_with_scikit_learn():
    (x, y), (q, _) = clusters(150), clusters(60, seed=1)
    x, q = standardised(x, q)
    scores, strength = linear_probe(x, y, q, num_classes=3)
    peer = LogisticRegression(C=1 / (strength * len(x)), tol=1e-8, max_iter=1000)
    peer.fit(x.numpy(), y.numpy())
    expected = torch.from_numpy(peer.predict_proba(q.numpy())).double()
    torch.testing.assert_close(scores.softmax(1).double(), expected, rtol=2e-2, atol=2e-3)


def test_features_that_say_nothing_do_not_hurt():
    x, y = clusters()
    x = torch.cat([x, torch.full((len(x), 2), 7.0)], dim=1)
    (z,) = standardised(x)
    assert z.isfinite().all()
    assert (z[:, -2:] == 0).all()
    scores, _ = linear_probe(z, y, z, num_classes=3)
    assert (scores.argmax(1) == y).float().mean() > 0.8


@pytest.mark.parametrize("function", [knn, lambda *a, **k: linear_probe(*a, **k)[0]])
def test_separable_classes(function):
    x, y = clusters(spread=0.1)
    q, truth = clusters(30, seed=2, spread=0.1)
    assert (function(x, y, q, num_classes=3).argmax(1) == truth).all()
