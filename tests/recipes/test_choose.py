"""The recipe chosen for a data set must fit it: enough steps, a warm-up that ends, open blocks."""

import math
from dataclasses import replace

import pytest
import torch

from convnext.data import DataConfig, DataSummary
from convnext.layers.large_kernel import LargeKernelConv2d
from convnext.models.registry import model_config
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


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("side", [32, 64, 300])
@pytest.mark.parametrize("model", ["slak_tiny", "replknet_31b"])
def test_a_large_kernel_network_is_made_fit_for_the_images(model, side, device):
    recipe, reasons = choose(
        summary(1_000, side=side), data=DataConfig(), model=model, device=device
    )
    task = recipe.classify
    config = replace(model_config(model), **task.network_args())
    maps = [math.ceil(recipe.data.image_size / r) for r in config.reductions]
    assert min(maps) >= 2
    for kernel, usual, h in zip(
        config.kernel_sizes, model_config(model).kernel_sizes, maps, strict=True
    ):
        # all that can be seen, and nothing beyond
        assert kernel == min(usual, max(2 * h - 1, config.small_kernel))
    assert config.kernel_sizes[-1] < model_config(model).kernel_sizes[-1] or side == 300
    assert any("longer ones never meet" in r for r in reasons) == bool(task.model_args)
    assert recipe.optim.sparsity.sparsity == 0
    assert len(reasons) >= 6
    if model == "slak_tiny":
        assert task.layer_scale_init_value == pytest.approx(0.1)
        assert task.stem_stride == {32: 2 if device == "cpu" else 1, 64: 2, 300: None}[side]
    else:  # a stem of stride 4 and no layer scale, whatever the images
        assert (task.layer_scale_init_value, task.stem_stride) == (None, None)
        assert recipe.data.image_size >= 64
        assert any("has no smaller stride" in r for r in reasons)


def test_a_small_kernel_that_the_user_sets_stays_the_smaller_one():
    recipe, _ = choose(
        summary(1_000, side=64),
        data=DataConfig(),
        model="slak_tiny",
        model_args={"small_kernel": 9},
    )
    config = replace(model_config("slak_tiny"), **recipe.classify.network_args())
    assert config.kernel_sizes == (51, 31, 15, 9)


def test_cropped_kernels_compute_the_same():
    """A kernel of side 2 H - 1 sees all of a map of side H, from everywhere."""
    torch.manual_seed(0)
    whole, cropped = (LargeKernelConv2d(3, m, 5, decomposed=True).eval() for m in (13, 7))
    for name in cropped.branches:
        conv, other = whole.get_submodule(name).conv, cropped.get_submodule(name).conv
        cut = [
            (a - b) // 2 for a, b in zip(conv.weight.shape[2:], other.weight.shape[2:], strict=True)
        ]
        rows, columns = (slice(c, -c or None) for c in cut)
        other.weight.data = conv.weight.data[:, :, rows, columns]
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(cropped(x), whole(x))


@pytest.mark.parametrize("model", ["slak_tiny", "slak_small", "replknet_31b", "convnext_tiny"])
def test_fine_tuning_of_deep_networks_groups_their_layers(model):
    recipe, _ = choose(summary(500), data=DataConfig(), model=model, pretrained="weights.pth")
    task = recipe.classify
    assert task.pretrained == "weights.pth"
    assert task.model_args == {}  # the kernels are those of the weights
    assert task.stem_stride is None
    assert recipe.optim.layer_decay < 1
    deep = model in ("slak_small", "replknet_31b")
    assert recipe.optim.layer_decay_rule == ("group" if deep else "single")
    toy = {"depths": [1, 1, 3, 1], "dims": [4, 6, 8, 10], "kernel_size": 9}
    groups = ClassifyTask(replace(task, model_args=toy), num_classes=4).param_groups(recipe.optim)
    scales = {g["lr_scale"] for g in groups}
    assert max(scales) == 1.0
    assert len(scales) >= 4


@pytest.mark.parametrize(
    ("model", "drop_path", "batch", "sparsity"),
    [
        ("slak_small", 0.4, 4096, 0.4),
        ("replknet_31b", 0.5, 2048, 0.0),
        ("convnext_base", 0.5, 4096, 0),
    ],
)
def test_at_imagenet_scale_a_network_gets_its_own_recipe(model, drop_path, batch, sparsity):
    recipe, _ = choose(summary(1_281_167), data=DataConfig(), device="cuda", model=model)
    assert (recipe.classify.model, recipe.classify.model_args) == (model, {})
    assert recipe.classify.layer_scale_init_value is None
    assert (recipe.classify.drop_path_rate, recipe.optim.batch_size) == (drop_path, batch)
    assert recipe.optim.sparsity.sparsity == sparsity


def test_an_encoder_without_head_gets_more_to_learn():
    settings = [
        choose(summary(500), data=DataConfig(), pretrained="x", encoder_only=encoder)[0].optim
        for encoder in (False, True)
    ]
    assert settings[1].lr > 4 * settings[0].lr
    assert (settings[0].layer_decay, settings[1].layer_decay) == (0.8, 0.9)
