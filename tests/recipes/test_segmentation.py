"""Segmentation recipes: the published values, and what is chosen for other data."""

import pytest

from convnext.data.config import SegmentationDataConfig
from convnext.data.segmentation.summary import SegmentationSummary
from convnext.models.upernet import segmenter_config
from convnext.recipes import list_recipes
from convnext.recipes.recipe import Recipe
from convnext.recipes.segmentation import RECIPES, fit_segmentation
from convnext.train.schedule import lr_schedule

DATA = SegmentationDataConfig(path="somewhere")


def summary(**changes):
    usual = {
        "num_images": 300,
        "num_classes": 11,
        "median_short_side": 360,
        "median_long_side": 480,
        "pixels": (1000,) * 11,
        "ignored": 0.0,
    }
    return SegmentationSummary(**(usual | changes))


def test_rows_are_those_of_the_paper():
    base = RECIPES["upernet_convnext_base_in22k_ade20k"]
    task, data = base.segment
    assert (task.drop_path_rate, base.optim.lr, base.optim.layer_decay) == (0.4, 1e-4, 0.9)
    sizes = (data.min_size, data.max_size, data.crop_size, data.window, data.stride)
    assert sizes == (640, 2560, 640, 640, 426)
    assert base.expected_miou == (52.6, 53.1)
    small = RECIPES["upernet_convnext_small_ade20k"]
    assert small.segment[0].drop_path_rate == 0.3
    assert small.segment[1].stride == 341
    assert RECIPES["upernet_convnext_xlarge_in22k_ade20k"].optim.lr == 8e-5
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        assert recipe.optim.batch_size == 16
        lr = lr_schedule(recipe.optim, 1263)
        assert lr.shape == (160_000,)
        assert lr[1500] == pytest.approx(recipe.optim.lr * (1 - 1500 / 160_000))
        assert lr[-1] == pytest.approx(recipe.optim.lr / 160_000)
        assert recipe.segment[0].loss_mean == "all"
        assert recipe.train.sync_batch_norm
        assert segmenter_config(recipe.segment[0].model)
        assert Recipe.from_json(recipe.to_json()) == recipe
        assert list_recipes()[name] == recipe


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("n", [2, 12, 300, 5000])
@pytest.mark.parametrize("pretrained", ["", "true"])
def test_every_choice_can_be_built_and_has_steps(n, pretrained, device):
    recipe, reasons = fit_segmentation(
        summary(num_images=n), DATA, device=device, pretrained=pretrained
    )
    assert recipe.segment[0].network_config(11).num_classes == 11
    per_epoch = n // recipe.optim.batch_size
    assert per_epoch >= 1
    assert len(lr_schedule(recipe.optim, per_epoch)) == recipe.optim.epochs * per_epoch
    assert reasons
    assert recipe.segment[0].pretrained == pretrained


def test_much_data_is_trained_as_published():
    recipe, reasons = fit_segmentation(summary(num_images=20_210, num_classes=150), DATA)
    assert recipe.optim.steps == 160_000
    assert recipe.data.path == "somewhere"
    assert "as published" in reasons[-1]


def test_a_published_recipe_stays_as_it_is_on_little_data():
    named = RECIPES["upernet_convnext_tiny_ade20k"]
    recipe, _ = fit_segmentation(summary(), DATA, recipe=named)
    assert recipe.optim == named.optim
    assert recipe.task == named.task
    larger, _ = fit_segmentation(summary(), DATA, recipe=named, image_size=640)
    assert (larger.data.min_size, larger.data.max_size) == (640, 2560)


def test_a_plain_name_is_fit_and_says_that_it_starts_from_scratch():
    recipe, reasons = fit_segmentation(summary(), DATA, recipe=RECIPES["upernet_convnext_tiny"])
    assert recipe.optim.steps is None
    assert recipe.name == "upernet_convnext_tiny"
    assert "from scratch" in reasons


@pytest.mark.parametrize(
    ("short", "long", "given", "expected"),
    [
        (360, 480, None, (256, 256, 0)),
        (2000, 3000, None, (256, 256, 0)),
        (1024, 4096, None, (256, 256, 256)),
        (2000, 2000, 0, (0, 256, 256)),
        (96, 200, None, (96, 96, 96)),
        (20, 20, None, (32, 32, 0)),
    ],
)
def test_sizes_follow_the_images(short, long, given, expected):
    described = summary(median_short_side=short, median_long_side=long)
    data = fit_segmentation(described, DATA, image_size=given)[0].data
    assert (data.min_size, data.crop_size, data.window) == expected


def test_rare_classes_get_a_dice_loss():
    rare = fit_segmentation(summary(pixels=(10_000, 9_000, 100, 8_000)), DATA)[0]
    assert rare.segment[0].dice_weight > 0
    assert fit_segmentation(summary(), DATA)[0].segment[0].dice_weight == 0


def test_timm_has_no_layers_to_decay():
    recipe, _ = fit_segmentation(
        summary(), DATA, model="upernet_timm:resnet18", pretrained="true", device="cuda"
    )
    assert recipe.optim.layer_decay == 1.0
    much, _ = fit_segmentation(summary(num_images=20_000), DATA, model="upernet_timm:resnet18")
    assert much.optim.layer_decay == 1.0
