"""The recipe for a detection set must fit it: anchors, proposals, steps; published ones stay."""

import pytest

from convnext.data.config import DetectionDataConfig
from convnext.data.detection import DetectionSummary
from convnext.recipes import list_recipes
from convnext.recipes.detection import RECIPES, fit_detection
from convnext.recipes.recipe import Recipe

DATA = DetectionDataConfig(path="x")


def summary(n=100, *, small=40.0, large=200.0, side=480, most=10, masks=True):
    return DetectionSummary(
        num_images=n,
        num_objects=5 * n,
        num_classes=3,
        has_masks=masks,
        median_short_side=side,
        median_long_side=side * 4 // 3,
        small_object=small,
        large_object=large,
        most_objects=most,
    )


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("pretrained", ["", "true"])
@pytest.mark.parametrize("n", [1, 3, 40, 2_000, 49_999])
def test_every_choice_can_be_built_and_has_steps(n, pretrained, device):
    recipe, reasons = fit_detection(summary(n), DATA, device=device, pretrained=pretrained)
    assert recipe.optim.batch_size <= n
    assert 0 < recipe.optim.warmup_epochs <= recipe.optim.epochs
    steps = recipe.optim.epochs * (n // recipe.optim.batch_size)
    assert steps >= 300
    if recipe.train.ema_decay is not None and steps >= 1_500:
        assert 1 / (1 - recipe.train.ema_decay) <= 0.1 * steps  # the start is forgotten
    assert len(reasons) >= 5
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert (recipe.optim.layer_decay < 1) == bool(pretrained)


def test_much_data_is_trained_as_published():
    recipe, reasons = fit_detection(summary(117_266), DATA, model="cascade_mask_rcnn_convnext_base")
    published = RECIPES["cascade_mask_rcnn_convnext_base"]
    assert recipe.optim == published.optim
    assert recipe.data.path == "x"
    assert reasons
    for model in ("mask_rcnn_slak_tiny", "mask_rcnn_timm:resnet50", "cascade_mask_rcnn_slak_base"):
        recipe, _ = fit_detection(summary(117_266), DATA, model=model)
        assert recipe.detect[0].model == model
        assert not recipe.detect[0].pretrained
        assert (recipe.optim.layer_decay < 1) == (":" not in model)


@pytest.mark.parametrize("masks", [True, False])
def test_a_published_recipe_stays_as_it_is_on_little_data(masks):
    name = "cascade_mask_rcnn_convnext_base_in22k_3x"
    recipe, reasons = fit_detection(summary(50, masks=masks), DATA, recipe=RECIPES[name])
    published = RECIPES[name]
    assert (recipe.name, recipe.optim, recipe.train) == (name, published.optim, published.train)
    assert recipe.detect[0].pretrained == "in22k"
    assert recipe.detect[0].masks == masks
    assert (recipe.data.min_size, recipe.data.max_size) == (800, 1333)
    assert any("as published" in reason for reason in reasons)


def test_a_plain_name_is_fit_and_says_that_it_starts_from_scratch():
    recipe, reasons = fit_detection(summary(), DATA, recipe=RECIPES["mask_rcnn_convnext_tiny"])
    assert recipe.detect[0].model == "mask_rcnn_convnext_tiny"
    assert not recipe.detect[0].pretrained
    assert "from scratch" in reasons


@pytest.mark.parametrize(
    ("small", "large", "scale"),
    [(60, 200, 8.0), (10, 100, 4.0), (5, 100, 2.0), (5, 450, 4.0), (5, 1000, 8.0)],
)
def test_anchors_reach_from_small_to_large_objects(small, large, scale):
    recipe, _ = fit_detection(summary(small=small, large=large, side=320), DATA, image_size=320)
    config = recipe.detect[0].network_config(3)
    assert config.anchor_scale == scale
    assert 64 * config.anchor_scale >= 0.55 * large or config.anchor_scale == 8


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_crowded_images_get_proposals_and_detections(device):
    recipe, _ = fit_detection(summary(most=700), DATA, device=device)
    config = recipe.detect[0].network_config(3)
    assert config.max_detections >= 700
    assert config.rpn().proposals[1] >= 700
    assert config.rpn().per_level[1] >= 700


def test_small_images_are_not_made_smaller():
    recipe, _ = fit_detection(summary(small=5, side=64), DATA)
    assert recipe.data.min_size == 128


def test_a_large_side_can_be_chosen():
    recipe, _ = fit_detection(summary(), DATA, image_size=1600)
    assert recipe.data.min_size == 1600 <= recipe.data.max_size


def test_timm_has_no_layers_to_decay():
    recipe, _ = fit_detection(summary(), DATA, model="mask_rcnn_timm:resnet18", pretrained="true")
    assert recipe.optim.layer_decay == 1
    assert recipe.detect[0].drop_path_rate == 0


def test_every_detector_has_a_recipe_of_its_name():
    assert RECIPES.keys() <= list_recipes().keys()
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        assert name.startswith(recipe.detect[0].model)
