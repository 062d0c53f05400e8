"""Segmentation recipes: the published values, and what is chosen for other data."""

import pytest

from convnext.data.config import SegmentationDataConfig
from convnext.data.segmentation.summary import SegmentationSummary
from convnext.models.upernet import segmenter_config
from convnext.recipes import is_fitted, list_recipes
from convnext.recipes.recipe import Recipe
from convnext.recipes.segmentation import FITTED, RECIPES, GivenSizes, fit_segmentation
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


# given: what becomes of crop, window and stride of 512, 512 and 341, and of an image seen at once
GIVEN = [
    ({}, (512, 512, 341), (512, 0, 341)),
    ({"crop_size": 256}, (256, 256, 170), (256, 0, 341)),
    ({"crop_size": 512}, (512, 512, 341), (512, 0, 341)),
    ({"window": 96}, (512, 96, 64), (512, 96, 64)),
    ({"window": 0}, (512, 0, 341), (512, 0, 341)),
    ({"window": 1}, (512, 1, 1), (512, 1, 1)),
    ({"stride": 100}, (512, 512, 100), (512, 512, 100)),
    ({"crop_size": 256, "stride": 100}, (256, 256, 100), (256, 256, 100)),
    ({"crop_size": 256, "window": 300}, (256, 300, 200), (256, 300, 200)),
    ({"window": 90, "stride": 90}, (512, 90, 90), (512, 90, 90)),
]


@pytest.mark.parametrize(("given", "in_windows", "at_once"), GIVEN)
def test_a_size_decides_those_after_it(given, in_windows, at_once):
    sizes = GivenSizes(**given)
    for window, expected in ((512, in_windows), (0, at_once)):
        data = sizes.put_in(SegmentationDataConfig(window=window))
        assert (data.crop_size, data.window, data.stride) == expected
        assert sizes.put_in(data) == data  # the same command goes on with the run


def test_a_stride_larger_than_the_window_is_refused():
    with pytest.raises(ValueError, match="stride = 600: give 1 to window, 512 pixels"):
        GivenSizes(stride=600).put_in(SegmentationDataConfig())


@pytest.mark.parametrize(
    ("given", "expected", "words"),
    [
        ({"crop_size": 100}, (100, 100, 66), "crops of 100 px, scored in windows of 100 px"),
        ({"crop_size": 200}, (200, 0, 133), "crops of 200 px, scored at once"),
        ({"window": 128}, (256, 128, 85), "crops of 256 px, scored in windows of 128 px"),
        ({"stride": 64}, (256, 256, 64), "scored in windows of 256 px"),
    ],
)
def test_given_sizes_join_those_chosen_for_the_data(given, expected, words):
    recipe, reasons = fit_segmentation(summary(), DATA, sizes=GivenSizes(**given))
    data = recipe.segment[1]
    assert (data.crop_size, data.window, data.stride) == expected
    assert words in " ".join(reasons)
    published = RECIPES["upernet_convnext_tiny_ade20k"]
    data = fit_segmentation(summary(), DATA, recipe=published, sizes=GivenSizes(crop_size=96))[0]
    assert (data.data.crop_size, data.data.window, data.data.stride) == (96, 96, 64)


def test_plain_names_are_those_that_are_fit_to_the_data():
    for name in FITTED:
        recipe, _ = fit_segmentation(summary(), DATA, recipe=RECIPES[name])
        assert recipe.source == "chosen for the data"
        assert is_fitted(name)
    assert not is_fitted("upernet_convnext_tiny_ade20k")
    assert is_fitted("mask_rcnn_convnext_tiny")
