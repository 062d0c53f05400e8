"""Learning-rate and weight-decay arrays against the formulas of the papers' code."""

import math

import numpy as np
import pytest

from convnext.train.config import OptimConfig, TrainConfig
from convnext.train.schedule import lr_schedule, weight_decay_schedule


@pytest.mark.parametrize(("epochs", "warmup", "steps"), [(300, 20, 312), (30, 0, 25), (4, 1, 1)])
def test_per_step_is_bit_equal_to_linspace_and_cosine(epochs, warmup, steps):
    optim = OptimConfig(lr=4e-3, min_lr=1e-6, epochs=epochs, warmup_epochs=warmup)
    array = lr_schedule(optim, steps)
    num_warmup, total = warmup * steps, epochs * steps
    n = total - num_warmup
    cosine = [1e-6 + 0.5 * (4e-3 - 1e-6) * (1 + math.cos(math.pi * i / n)) for i in range(n)]
    assert array.dtype == np.float64
    assert np.array_equal(array, np.concatenate((np.linspace(0, 4e-3, num_warmup), cosine)))
    assert array[num_warmup] == 4e-3
    assert array[-1] > 1e-6
    if num_warmup > 1:
        assert array[0] == 0
        assert array[num_warmup - 1] == 4e-3


@pytest.mark.parametrize(("epochs", "warmup"), [(100, 20), (600, 0), (10, 10), (9, 2.5)])
def test_per_epoch_fraction_is_the_continuous_rule(epochs, warmup):
    optim = OptimConfig(
        schedule="per_epoch_fraction", lr=2.5e-3, min_lr=1e-6, epochs=epochs, warmup_epochs=warmup
    )
    array = lr_schedule(optim, 7)
    e = np.arange(epochs * 7) / 7
    with np.errstate(divide="ignore", invalid="ignore"):
        rise = 2.5e-3 * e / warmup
        fall = 1e-6 + (2.5e-3 - 1e-6) / 2 * (1 + np.cos(math.pi * (e - warmup) / (epochs - warmup)))
    np.testing.assert_allclose(array, np.where(e < warmup, rise, fall), rtol=1e-12)


def test_weight_decay_is_constant_or_a_cosine_without_warmup():
    assert set(weight_decay_schedule(OptimConfig(epochs=20), 3)) == {0.05}
    array = weight_decay_schedule(OptimConfig(epochs=20, weight_decay_end=0.5), 3)
    i = np.arange(60)
    np.testing.assert_allclose(array, 0.5 - 0.225 * (1 + np.cos(np.pi * i / 60)), rtol=1e-12)


@pytest.mark.parametrize(
    ("cls", "field", "value", "remedy"),
    [
        (OptimConfig, "lr", 0.0, "above 0"),
        (OptimConfig, "warmup_epochs", 301, "epochs=300"),
        (OptimConfig, "optimizer", "adam", "adamw or sgd"),
        (OptimConfig, "layer_decay", 1.5, "at most 1"),
        (OptimConfig, "clip_grad", 0.0, "leave it out"),
        (OptimConfig, "batch_size", 0, "at least 1"),
        (OptimConfig, "schedule", "cosine", "per_step"),
        (TrainConfig, "ema_decay", 1.0, "below 1"),
        (TrainConfig, "precision", "int8", "bf16"),
        (TrainConfig, "micro_batch", 0, "at least 1"),
        (TrainConfig, "keep_checkpoints", 0, "at least 1"),
    ],
)
def test_values_out_of_range_are_named_with_their_limit(cls, field, value, remedy):
    with pytest.raises(ValueError, match=rf"{field}={value!r}.*{remedy}"):
        cls(**{field: value})


def test_steps_rises_from_a_thousandth_and_falls_by_tenths():
    optim = OptimConfig(
        schedule="steps", lr=2.0, min_lr=0.0, epochs=12, warmup_epochs=0.5, drops=(8 / 12, 11 / 12)
    )
    lr = lr_schedule(optim, 10)
    assert lr.shape == (120,)
    np.testing.assert_allclose(lr[:6], [2 * (0.001 + 0.999 * i / 5) for i in range(5)] + [2.0])
    np.testing.assert_allclose(lr[[79, 80, 109, 110, 119]], [2.0, 0.2, 0.2, 0.02, 0.02])


def test_poly_falls_in_a_line_that_the_warmup_multiplies():
    optim = OptimConfig(schedule="poly", lr=2.0, min_lr=0.0, steps=160, warmup_steps=10)
    lr = lr_schedule(optim, 7)
    i = np.arange(160)
    ratio = np.where(i < 10, 1 - (1 - i / 10) * (1 - 1e-6), 1.0)
    np.testing.assert_allclose(lr, 2 * (1 - i / 160) * ratio, rtol=1e-9)  # 1 - (1 - 1e-6)


@pytest.mark.parametrize("rule", ["per_step", "per_epoch_fraction", "steps", "poly"])
def test_steps_decide_the_length_and_the_warmup(rule):
    optim = OptimConfig(schedule=rule, lr=1.0, min_lr=0.0, steps=25, warmup_steps=5)
    lr = lr_schedule(optim, 10)
    assert lr.shape == weight_decay_schedule(optim, 10).shape == (25,)
    assert np.all(np.diff(lr[:5]) > 0)
    assert np.all(lr[6:] <= lr[5])


def test_a_warmup_longer_than_the_run_is_refused():
    with pytest.raises(ValueError, match=r"warmup_steps=11.*steps=10"):
        OptimConfig(steps=10, warmup_steps=11)
    with pytest.raises(ValueError, match="warm-up of 20 steps is longer than the run of 10"):
        lr_schedule(OptimConfig(epochs=1, warmup_epochs=0, warmup_steps=20), 10)


def test_another_length_keeps_the_share_of_the_warmup():
    optim = OptimConfig(steps=160_000, warmup_steps=1_500, schedule="poly")
    shorter = optim.lasting(steps=1_000)
    assert (shorter.steps, shorter.warmup_steps) == (1_000, 9)
    assert optim.lasting(steps=160_000) == optim
    in_epochs = optim.lasting(epochs=40)
    assert (in_epochs.steps, in_epochs.warmup_steps, in_epochs.epochs) == (None, None, 40)
    assert in_epochs.warmup_epochs == pytest.approx(0.375)
    plain = OptimConfig(steps=100, warmup_epochs=1.0)
    assert plain.lasting(steps=50) == OptimConfig(steps=50, warmup_epochs=1.0)
    assert plain.lasting(epochs=3) == OptimConfig(epochs=3, warmup_epochs=1.0)
