"""Reliability bins, calibration error and the fitted temperature."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from convnext.evaluate.calibration import (
    TEMPERATURE_LIMITS,
    expected_calibration_error,
    fit_temperature,
    measure_temperature,
    reliability_bins,
)


def overconfident(num_images, temperature, *, num_classes=10, seed=0):
    """Logits that are right exactly as often as softmax(logits / temperature) says."""
    generator = torch.Generator().manual_seed(seed)
    honest = 2 * torch.randn(num_images, num_classes, generator=generator)
    labels = torch.multinomial(honest.softmax(1), 1, generator=generator)[:, 0]
    return honest * temperature, labels


def test_bins_by_hand():
    confidence = np.array([0.05, 1 / 15, 0.5, 0.52, 1.0, 0.95])
    correct = np.array([False, True, True, False, True, False])
    bins = reliability_bins(confidence, correct)
    assert len(bins) == 15
    assert [b.count for b in bins] == [2, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 2]
    assert bins[0].accuracy == 0.5
    assert bins[7].confidence == pytest.approx(0.51)
    assert bins[1].accuracy is None
    assert (bins[14].low, bins[14].high) == (14 / 15, 1.0)
    by_hand = (2 * abs(0.5 - (0.05 + 1 / 15) / 2) + 2 * 0.01 + 2 * (0.975 - 0.5)) / 6
    assert expected_calibration_error(bins) == pytest.approx(by_hand)


@pytest.mark.parametrize("true_temperature", [0.4, 1.0, 3.0])
def test_temperature_is_the_minimum_of_the_loss(true_temperature):
    logits, labels = overconfident(4000, true_temperature)

    def loss(temperature):
        return float(torch.nn.functional.cross_entropy(logits.double() / temperature, labels))

    best = minimize_scalar(loss, bounds=TEMPERATURE_LIMITS, options={"xatol": 1e-8})
    fitted = fit_temperature(logits, labels)
    assert fitted == pytest.approx(best.x, rel=1e-4)
    assert fitted == pytest.approx(true_temperature, rel=0.1)


def test_temperature_repairs_overconfidence_on_images_it_has_not_seen():
    logits, labels = overconfident(4001, 3.0)
    fit = measure_temperature(logits, labels)
    assert (fit.num_fit, fit.num_measured) == (2001, 2000)
    assert fit.ece_before > 0.2
    assert fit.ece_after < 0.03
    assert fit.loss_after < fit.loss_before
    # Other labels in the measured half must not move the temperature, in the fitted half they do.
    changed = labels.clone()
    changed[1::2] = 0
    assert measure_temperature(logits, changed).temperature == fit.temperature
    changed = labels.clone()
    changed[0::2] = 0
    assert measure_temperature(logits, changed).temperature != fit.temperature


def test_temperature_stays_in_its_limits_without_an_optimum():
    labels = torch.arange(6) % 3
    always_right = torch.eye(3)[labels]
    assert fit_temperature(always_right, labels) == pytest.approx(TEMPERATURE_LIMITS[0], rel=1e-6)
    always_wrong = -always_right
    assert fit_temperature(always_wrong, labels) == pytest.approx(TEMPERATURE_LIMITS[1], rel=1e-6)
    constant = torch.zeros(6, 3)
    assert TEMPERATURE_LIMITS[0] <= fit_temperature(constant, labels) <= TEMPERATURE_LIMITS[1]
    assert measure_temperature(always_right, labels).at_limit
    assert not measure_temperature(*overconfident(500, 2.0)).at_limit
    assert measure_temperature(always_right[:1], labels[:1]) is None


def test_masked_classes_and_huge_logits_do_not_break_the_fit():
    logits, labels = overconfident(500, 2.0, num_classes=4)
    masked = torch.cat([logits, torch.full((500, 1), -torch.inf)], dim=1)
    assert fit_temperature(masked, labels) == pytest.approx(fit_temperature(logits, labels))
    assert 1 < fit_temperature(logits * 50, labels) <= TEMPERATURE_LIMITS[1]
