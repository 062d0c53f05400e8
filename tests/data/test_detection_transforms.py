"""Sizes, boxes, pixels and masks against independent rules, and the published augmentation."""

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as vision

from convnext.data import DetectionAugmentConfig, DetectionDataConfig
from convnext.data.detection.transforms import apply_to_boxes, eval_steps, train_steps
from convnext.data.pixels import Crop, Flip, Resize, apply_to_pixels, fit_size, mask_grid

CONFIG = DetectionDataConfig()


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((427, 640), (800, 1199)),
        ((480, 640), (800, 1067)),
        ((640, 425), (1205, 800)),
        ((1000, 4000), (333, 1333)),
        ((333, 500), (800, 1201)),
        ((800, 1333), (800, 1333)),
        ((1, 5000), (1, 1333)),  # a side never vanishes
    ],
)
def test_size_rule(size, wanted):
    """To the nearest whole pixel, not cut off."""
    assert fit_size(*size, 800, 1333) == wanted
    assert eval_steps(*size, CONFIG) == [Resize(*wanted)]


def bilinear(image, height, width):
    """Bilinear interpolation at pixel centres in float64, without antialiasing."""

    def places(new, old):
        x = ((np.arange(new) + 0.5) * old / new - 0.5).clip(0, old - 1)
        low = np.floor(x).astype(int)
        return low, np.minimum(low + 1, old - 1), (x - low)

    top, bottom, v = places(height, image.shape[0])
    left, right, u = places(width, image.shape[1])
    u, v = u[None, :, None], v[:, None, None]
    upper = image[top][:, left] * (1 - u) + image[top][:, right] * u
    lower = image[bottom][:, left] * (1 - u) + image[bottom][:, right] * u
    return upper * (1 - v) + lower * v


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(40, 61), (17, 23), (33, 20), (3, 2)])
def test_pixels_are_interpolated_without_antialiasing(size, channels):
    image = np.random.RandomState(0).randint(0, 256, (30, 41, channels)).astype(np.uint8)
    mine = apply_to_pixels(image, [Resize(*size)])
    assert mine.shape == (channels, *size)
    assert mine.dtype == torch.uint8
    error = np.abs(mine.permute(1, 2, 0).numpy() - bilinear(image.astype(float), *size))
    assert error.max() < 1.01
    assert error.mean() < 0.6
    same = vision.resize(torch.from_numpy(image).permute(2, 0, 1), list(size), antialias=False)
    assert (mine.int() - same.int()).abs().max() <= 1


STEPS = [
    [Flip()],
    [Flip(vertical=True)],
    [Resize(90, 40)],
    [Crop(5, 7, 20, 30)],
    [Flip(), Resize(64, 91), Crop(10, 0, 40, 77), Resize(53, 120)],
    [Flip(), Flip(vertical=True), Resize(33, 31), Crop(1, 2, 30, 5)],
]


@pytest.mark.parametrize("steps", STEPS)
def test_boxes_as_torchvision_moves_them(steps):
    random = np.random.RandomState(1)
    corners = random.uniform(-10, 70, (50, 2))
    boxes = np.concatenate([corners, corners + random.uniform(0, 40, (50, 2))], axis=1)
    boxes = boxes.astype(np.float32)
    mine = apply_to_boxes(boxes, 50, 60, steps)
    theirs = vision.clamp_bounding_boxes(
        tv_tensors.BoundingBoxes(torch.from_numpy(boxes), format="XYXY", canvas_size=(50, 60))
    )
    for step in steps:
        if isinstance(step, Flip):
            flip = vision.vertical_flip if step.vertical else vision.horizontal_flip
            theirs = flip(theirs)
        elif isinstance(step, Resize):
            theirs = vision.resize(theirs, [step.height, step.width])
        else:
            theirs = vision.crop(theirs, step.top, step.left, step.height, step.width)
        theirs = vision.clamp_bounding_boxes(theirs)
    assert torch.allclose(torch.from_numpy(mine), theirs.as_subclass(torch.Tensor), atol=1e-3)


@pytest.mark.parametrize("steps", STEPS)
def test_masks_as_if_each_step_were_taken_alone(steps):
    mask = np.random.RandomState(2).randint(0, 2, (50, 60)).astype(np.uint8)
    rows, columns = mask_grid(50, 60, steps)
    mine = mask[rows][:, columns]
    for step in steps:
        if isinstance(step, Flip):
            mask = mask[::-1] if step.vertical else mask[:, ::-1]
        elif isinstance(step, Crop):
            mask = mask[step.top : step.top + step.height, step.left : step.left + step.width]
        else:
            old = torch.from_numpy(mask.copy())[None, None]
            mask = torch.nn.functional.interpolate(old, (step.height, step.width))[0, 0].numpy()
    assert mine.shape == mask.shape
    # Where i * old / new is a whole number, float32 and float64 may fall on either side of it.
    assert (mine != mask).mean() < 0.02


def draw(config, count=3000, size=(480, 640)):
    random = np.random.RandomState(0)
    return [train_steps(*size, config, random) for _ in range(count)]


def test_published_augmentation():
    """Flip .5; half the images at one of eleven sizes, half with a crop of 384..600 before it."""
    sides = {480 + 32 * i for i in range(11)}
    drawn = draw(CONFIG)
    flips = np.mean([steps[0] == Flip() for steps in drawn])
    assert flips == pytest.approx(0.5, abs=0.03)
    plain, cropped, firsts, heights, widths = set(), 0, set(), [], []
    for steps in drawn:
        rest = [step for step in steps if not isinstance(step, Flip)]
        last = rest[-1]
        assert isinstance(last, Resize)
        assert max(last.height, last.width) <= 1333
        if len(rest) == 1:
            assert last.height in sides
            assert last == Resize(*fit_size(480, 640, last.height, 1333))
            plain.add(last.height)
            continue
        first, crop = rest[0], rest[1]
        firsts.add(first.height)
        assert 384 <= crop.height <= min(600, first.height)
        assert 384 <= crop.width <= min(600, first.width)
        assert 0 <= crop.top <= first.height - crop.height
        assert 0 <= crop.left <= first.width - crop.width
        short = min(last.height, last.width)
        assert short in sides or max(last.height, last.width) >= 1332
        heights.append(crop.height)
        widths.append(crop.width)
        cropped += 1
    assert plain == sides
    assert firsts == {400, 500, 600}
    assert cropped / len(drawn) == pytest.approx(0.5, abs=0.03)
    assert (min(heights), max(heights)) == (384, 600)
    assert (min(widths), max(widths)) == (384, 600)


def test_small_images_are_cut_no_smaller_than_they_are():
    steps = draw(DetectionDataConfig(min_size=800, max_size=1333), 200, size=(3000, 30))
    crops = [step for part in steps for step in part if isinstance(step, Crop)]
    assert crops
    assert all(crop.width <= 13 for crop in crops)  # 30 / 3000 * 1333


def test_numbers_grow_with_the_size():
    config = DetectionDataConfig(min_size=200, max_size=333)
    for steps in draw(config, 300):
        rest = [step for step in steps if not isinstance(step, Flip)]
        assert max(rest[-1].height, rest[-1].width) <= 333
        if len(rest) > 1:
            assert rest[0].height in {100, 125, 150}
            assert 96 <= rest[1].height <= 150
        else:
            assert rest[-1].height in {120 + 8 * i for i in range(11)}


def test_large_scale_jitter():
    config = DetectionDataConfig(augment=DetectionAugmentConfig(policy="lsj", hflip=0))
    scales = []
    for resize, crop in draw(config, 2000, size=(600, 800)):
        assert crop.height == min(resize.height, 1024)
        assert crop.width == min(resize.width, 1024)
        assert abs(resize.height / resize.width - 0.75) < 0.01
        scales.append(resize.width / 1024)
    assert 0.1 <= min(scales) < 0.12
    assert 1.98 < max(scales) <= 2.0
    assert np.mean(scales) == pytest.approx(1.05, abs=0.04)


def test_resize_only():
    augment = DetectionAugmentConfig(policy="resize", hflip=0, vflip=1)
    config = DetectionDataConfig(augment=augment)
    assert draw(config, 1) == [[Flip(vertical=True), Resize(800, 1067)]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hflip": 1.5}, "hflip = 1.5"),
        ({"crop_prob": -1}, "crop_prob = -1"),
        ({"short_sides": ()}, "short_sides"),
        ({"first_sides": (0,)}, "first_sides"),
        ({"crop": (5, 4)}, "crop"),
        ({"lsj_scale": (0, 1)}, "lsj_scale"),
        ({"lsj_size": 0}, "lsj_size"),
    ],
)
def test_augmentation_out_of_range(change, message):
    with pytest.raises(ValueError, match=message):
        DetectionAugmentConfig(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"min_size": 0}, "min_size = 0"),
        ({"max_size": 700}, "max_size = 700: give at least min_size, 800"),
        ({"val_fraction": 1}, "val_fraction"),
        ({"std": (0, 1, 1)}, "std"),
    ],
)
def test_data_out_of_range(change, message):
    with pytest.raises(ValueError, match=message):
        DetectionDataConfig(**change)
