"""The recipe chosen for a data set must fit it: enough steps, a warm-up that ends, open blocks."""

import pytest

from convnext.data import DataConfig, DataSummary
from convnext.recipes.choose import choose
from convnext.recipes.recipe import Recipe
from convnext.tasks.classify import ClassifyTask


def summary(n, *, classes=4, side=300, grey=False, counts=None):
    counts = counts or (n // classes,) * classes
    names = tuple(f"c{i}" for i in range(len(counts)))
    return DataSummary(n, n // 5, 0, names, tuple(counts), side, side, grey)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("pretrained", ["", "true"])
@pytest.mark.parametrize("n", [8, 40, 250, 3_000, 60_000, 400_000])
def test_every_choice_has_enough_steps_and_a_warm_up_that_ends(n, pretrained, device):
    recipe, reasons = choose(
        summary(n), data=DataConfig(path="x"), device=device, pretrained=pretrained
    )
    optim, steps_per_epoch = recipe.optim, n // recipe.optim.batch_size
    steps = optim.epochs * steps_per_epoch
    warmup = int(optim.warmup_epochs * steps_per_epoch)
    assert steps_per_epoch >= 1
    assert steps >= min(1_000, 150 * steps_per_epoch)
    assert 0 < warmup <= 0.2 * steps
    if recipe.train.ema_decay is not None:
        assert 1 / (1 - recipe.train.ema_decay) <= 0.1 * steps  # the start is forgotten
    assert optim.lr <= 4e-3
    assert recipe.data.path == "x"
    assert len(reasons) >= 6
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_imagenet_scale_gets_the_published_recipe():
    recipe, reasons = choose(summary(1_281_167), data=DataConfig(), device="cuda")
    assert (recipe.optim.lr, recipe.optim.batch_size) == (4e-3, 4096)
    assert recipe.optim.epochs == 300
    assert any("published" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("side", "device", "size", "stride"),
    [(32, "cuda", 32, 1), (32, "cpu", 32, 2), (64, "cuda", 64, 2), (300, "cuda", 224, None)],
)
def test_small_images_get_a_finer_stem(side, device, size, stride):
    recipe, _ = choose(summary(1_000, side=side), data=DataConfig(), device=device)
    assert (recipe.data.image_size, recipe.task.stem_stride) == (size, stride)


def test_grey_images_get_one_channel_from_scratch_and_three_with_weights():
    grey = summary(1_000, grey=True)
    assert choose(grey, data=DataConfig())[0].data.in_chans == 1
    assert choose(grey, data=DataConfig(), pretrained="true")[0].data.in_chans == 3


@pytest.mark.parametrize(
    ("counts", "weights", "sampling"),
    [
        ((100, 100), "none", "uniform"),
        ((400, 100), "balanced", "uniform"),
        ((4000, 100), "none", "balanced"),
    ],
)
def test_imbalance_is_answered(counts, weights, sampling):
    recipe, reasons = choose(summary(sum(counts), counts=counts), data=DataConfig())
    assert recipe.task.class_weights == weights
    assert recipe.data.sampling == sampling
    assert any("largest class" in reason for reason in reasons) == (counts[0] > counts[1])


def test_a_short_run_from_scratch_opens_the_blocks():
    recipe, reasons = choose(summary(1_000), data=DataConfig(), model="convnext_atto")
    network = ClassifyTask(recipe.task, num_classes=4).network
    assert float(network.stages[0].blocks[0].gamma.detach()[0]) == pytest.approx(0.1)
    assert any("layer scale" in reason for reason in reasons)


def test_pretrained_weights_are_recommended_but_not_taken_unasked():
    recipe, reasons = choose(summary(500), data=DataConfig())
    assert recipe.task.pretrained == ""
    assert any("add --pretrained" in reason for reason in reasons)
    recipe, _ = choose(summary(500), data=DataConfig(), pretrained="true")
    assert recipe.task.pretrained == "true"
    assert recipe.optim.layer_decay < 1


def test_what_the_user_sets_is_respected():
    recipe, _ = choose(
        summary(1_000),
        data=DataConfig(),
        model="convnext_pico",
        image_size=96,
        batch_size=20,
        epochs=7,
    )
    assert recipe.task.model == "convnext_pico"
    assert (recipe.data.image_size, recipe.optim.batch_size, recipe.optim.epochs) == (96, 20, 7)
    assert recipe.optim.warmup_epochs <= 1.4
