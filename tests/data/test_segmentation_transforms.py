"""The published augmentation against slow, independent rules."""

import colorsys
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from convnext.data import SegmentationAugmentConfig, SegmentationDataConfig
from convnext.data.pixels import Crop, Resize, apply_to_pixels, mask_grid
from convnext.data.segmentation import IGNORE
from convnext.data.segmentation.photometric import distort, to_hsv, to_rgb
from convnext.data.segmentation.transforms import (
    choose_crop,
    eval_pixels,
    eval_size,
    train_size,
    train_view,
)

CONFIG = SegmentationDataConfig()
PLAIN = SegmentationAugmentConfig(scale=(1, 1), cat_max_ratio=1, hflip=0, photometric=0)


def generator(seed=0):
    return np.random.RandomState(seed)


def picture(height=30, width=41, channels=3, seed=0):
    return generator(seed).randint(0, 256, (height, width, channels)).astype(np.uint8)


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((512, 683), (512, 683)),
        ((360, 480), (512, 683)),
        ((300, 2000), (307, 2048)),
        ((1000, 750), (683, 512)),
        ((1, 9000), (1, 2048)),
    ],
)
def test_size_of_evaluation(size, wanted):
    assert eval_size(*size, CONFIG) == wanted
    own = SegmentationDataConfig(min_size=0)
    assert eval_size(*size, own) == size
    image = picture(*size) if max(size) < 3000 else picture(1, 3000)
    assert eval_pixels(image, own).shape == (3, *image.shape[:2])
    assert torch.equal(eval_pixels(image, own).permute(1, 2, 0), torch.from_numpy(image))


def test_size_of_training():
    """The limits of the size times a factor, rounded down; then the rule of evaluation."""
    random, again = generator(), generator()
    factors = []
    for _ in range(500):
        factor = again.random_sample() * 1.5 + 0.5
        short, long = int(512 * factor), int(2048 * factor)
        scale = min(short / 300, long / 500)
        wanted = Resize(int(300 * scale + 0.5), int(500 * scale + 0.5))
        assert train_size(300, 500, CONFIG, random) == wanted
        factors.append(factor)
    assert min(factors) < 0.52
    assert max(factors) > 1.98
    own = SegmentationDataConfig(min_size=0)
    sizes = [train_size(300, 500, own, random) for _ in range(300)]
    assert all(abs(size.width / size.height - 5 / 3) < 0.03 for size in sizes)
    assert 150 <= min(size.height for size in sizes) < 160
    assert 590 < max(size.height for size in sizes) <= 600
    assert train_size(1, 1, own, random).height >= 1


def crop_of(values, side, most=0.75, seed=0):
    """The crop by the rule as published, one class after the other."""
    random = generator(seed)
    height, width = values.shape

    def draw():
        top = random.randint(0, max(height - side, 0) + 1)
        left = random.randint(0, max(width - side, 0) + 1)
        return Crop(top, left, min(side, height), min(side, width))

    tried = [draw()]
    while len(tried) <= 10:
        last = tried[-1]
        part = values[last.top : last.top + side, last.left : last.left + side]
        counts = {k: int((part == k).sum()) for k in set(part.ravel().tolist()) - {IGNORE}}
        total = sum(counts.values())
        if len(counts) > 1 and all(count / total < most for count in counts.values()):
            break
        tried.append(draw())
    return tried


def whole_grid(values):
    return mask_grid(*values.shape, [])


def test_crops_avoid_a_single_class():
    random = generator(3)
    retries = set()
    for seed in range(60):
        values = np.zeros((60, 70), np.int16)
        size = random.randint(1, 60)
        values[:size, :size] = random.randint(1, 3)
        values[random.randint(60) :, random.randint(70) :] = IGNORE
        tried = crop_of(values, 24, seed=seed)
        config = SegmentationDataConfig(crop_size=24, window=24, stride=24)
        assert choose_crop(values, whole_grid(values), config, generator(seed)) == tried[-1]
        retries.add(len(tried) - 1)
    assert {0, 10} < retries
    once = SegmentationDataConfig(crop_size=24, augment=PLAIN)
    assert choose_crop(values, whole_grid(values), once, generator(seed)) == tried[0]


def test_crops_where_one_class_is_there_or_none():
    config = SegmentationDataConfig(crop_size=8)
    for values in (np.zeros((20, 20), np.int16), np.full((20, 20), IGNORE, np.int16)):
        tried = crop_of(values, 8)
        assert len(tried) == 11
        assert choose_crop(values, whole_grid(values), config, generator()) == tried[-1]
    exact = np.zeros((8, 8), np.int16)
    exact[:2] = 1  # three quarters are not less than three quarters
    tried = crop_of(exact, 8)
    assert len(tried) == 11


def test_the_share_is_that_of_the_resized_mask():
    values = np.arange(16, dtype=np.int16).reshape(4, 4) // 8
    grid = mask_grid(4, 4, [Resize(40, 40)])
    config = SegmentationDataConfig(crop_size=40)
    assert choose_crop(values, grid, config, generator()) == Crop(0, 0, 40, 40)


def same_view(pixels, mask, config, seed):
    """A view as if each step were taken alone."""
    random = generator(seed)
    resize = train_size(*mask.shape, config, random)
    image = apply_to_pixels(pixels, [resize]).permute(1, 2, 0).numpy()
    rows = np.arange(resize.height) * mask.shape[0] // resize.height
    columns = np.arange(resize.width) * mask.shape[1] // resize.width
    values = mask[rows][:, columns]
    crop = choose_crop(values, whole_grid(values), config, random)
    part = slice(crop.top, crop.top + crop.height), slice(crop.left, crop.left + crop.width)
    image, values = image[part], values[part]
    if random.random_sample() < config.augment.hflip:
        image, values = image[:, ::-1], values[:, ::-1]
    if random.random_sample() < config.augment.vflip:
        image, values = image[::-1], values[::-1]
    return slow_distort(image, config.augment, random), values


@pytest.mark.parametrize("size", [(33, 47), (17, 80), (64, 64), (5, 3)])
@pytest.mark.parametrize("min_size", [0, 40])
def test_views_of_images_and_masks(size, min_size):
    augment = SegmentationAugmentConfig(vflip=0.5)
    config = SegmentationDataConfig(min_size=min_size, max_size=90, crop_size=32, augment=augment)
    pixels = picture(*size)
    mask = generator(1).randint(-1, 4, size).astype(np.int16)
    for seed in range(12):
        image, values = train_view(pixels, mask, config, generator(seed))
        wanted, truth = same_view(pixels, mask, config, seed)
        assert image.dtype == torch.uint8
        assert np.array_equal(values, truth)
        assert np.array_equal(image.permute(1, 2, 0).numpy(), wanted)
        assert image.shape[1:] == values.shape
        assert max(values.shape) <= 32


def test_flips():
    config = SegmentationDataConfig(
        min_size=0,
        crop_size=64,
        augment=SegmentationAugmentConfig(scale=(1, 1), photometric=0, vflip=0.25),
    )
    pixels = picture(4, 6)
    mask = np.arange(24, dtype=np.int16).reshape(4, 6)
    seen = {"": 0, "h": 0, "v": 0, "hv": 0}
    random = generator()
    for _ in range(800):
        image, values = train_view(pixels, mask, config, random)
        name = ("h" if values[0, 0] % 6 else "") + ("v" if values[0, 0] >= 6 else "")
        seen[name] += 1
        assert (image.permute(1, 2, 0).numpy() == pixels.reshape(-1, 3)[values]).all()
    assert seen["h"] + seen["hv"] == pytest.approx(400, abs=60)
    assert seen["v"] + seen["hv"] == pytest.approx(200, abs=50)


def slow_hsv(red, green, blue):
    h, s, v = colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)
    return math.floor(h * 180 + 0.5) % 180, math.floor(s * 255 + 0.5), round(v * 255)


def slow_rgb(hue, saturation, value):
    """In fractions: by the sixth of the circle that the hue is in."""
    sixth, rest = divmod(Fraction(int(hue), 30), 1)
    s, v = Fraction(int(saturation), 255), int(value)
    p, q, t = v * (1 - s), v * (1 - s * rest), v * (1 - s * (1 - rest))
    colour = [(v, t, p), (q, v, p), (p, v, t), (p, q, v), (t, p, v), (v, p, q)][int(sixth)]
    return [math.floor(part) for part in colour]


def test_hue_saturation_and_value():
    random = generator()
    pixels = np.concatenate(
        [picture(40, 40).reshape(-1, 3), random.randint(0, 4, (500, 3)), np.eye(3) * 255]
    ).astype(np.uint8)[None]
    hue, saturation, value = to_hsv(pixels)
    wanted = np.array([slow_hsv(*map(int, pixel)) for pixel in pixels[0]])
    turn = np.abs(hue[0].astype(int) - wanted[:, 0])
    # On the border of two whole numbers the tables of division may fall on either side.
    assert (np.minimum(turn, 180 - turn) <= 1).all()
    assert (turn > 0).mean() < 0.02
    assert (np.abs(saturation[0].astype(int) - wanted[:, 1]) <= 1).all()
    assert (saturation[0] != wanted[:, 1]).mean() < 0.01
    assert np.array_equal(value[0], wanted[:, 2])
    assert hue.max() < 180


def test_back_to_colours():
    random = generator()
    hue = np.concatenate([np.arange(180), random.randint(0, 180, 3000)]).astype(np.uint8)
    others = random.randint(0, 256, (2, len(hue))).astype(np.uint8)
    others[:, :60] = 255
    wanted = [slow_rgb(*values) for values in zip(hue, *others, strict=True)]
    assert np.array_equal(to_rgb(hue[None], *others[:, None])[0], wanted)
    grey = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 256, 3)
    assert np.array_equal(to_rgb(*to_hsv(grey)), grey)


def slow_distort(pixels, augment, random):
    """Pixel by pixel, in the order that is published."""

    def convert(values, alpha=1.0, beta=0.0):
        floats = values.astype(np.float32) * np.float32(alpha) + np.float32(beta)
        return np.clip(floats, 0, 255).astype(np.uint8)

    def drawn():
        return random.random_sample() < augment.photometric

    def by_hsv(values, change):
        changed = [
            change(*(np.uint8(c) for c in channels)) for channels in zip(*values, strict=True)
        ]
        return np.array([slow_rgb(*c) for c in changed], np.uint8).reshape(pixels.shape)

    def channels(image):
        return [channel.ravel() for channel in to_hsv(image)]

    image = pixels
    if drawn():
        image = convert(image, beta=random.uniform(-augment.brightness, augment.brightness))
    mode = random.randint(2)
    if mode == 1 and drawn():
        image = convert(image, alpha=random.uniform(*augment.contrast))
    if image.shape[2] == 3 and drawn():
        factor = random.uniform(*augment.saturation)
        image = by_hsv(channels(image), lambda h, s, v: (h, convert(s, alpha=factor), v))
    if image.shape[2] == 3 and drawn():
        shift = random.randint(-augment.hue, augment.hue)
        image = by_hsv(channels(image), lambda h, s, v: ((int(h) + shift) % 180, s, v))
    if mode == 0 and drawn():
        image = convert(image, alpha=random.uniform(*augment.contrast))
    return image


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_as_published(channels):
    for seed in range(25):
        pixels = picture(9, 12, channels, seed)
        before = pixels.copy()
        mine = distort(pixels, SegmentationAugmentConfig(), generator(seed))
        wanted = slow_distort(pixels, SegmentationAugmentConfig(), generator(seed))
        assert mine.dtype == np.uint8
        assert np.array_equal(mine, wanted)
        assert np.array_equal(pixels, before)
        # The same numbers are drawn, so that what follows is the same.


def one_of(**strengths):
    off = {"brightness": 0, "contrast": (1, 1), "saturation": (1, 1), "hue": 0}
    return SegmentationAugmentConfig(**(off | strengths), photometric=1)


def test_each_change_alone():
    single = picture(channels=1)
    lifted = distort(single, one_of(brightness=32), generator())
    shift = (lifted.astype(int) - single)[(lifted > 0) & (lifted < 255)]
    assert len(np.unique(shift)) == 1
    assert 0 < np.abs(shift).max() <= 32
    brighter = distort(single, one_of(contrast=(1.5, 1.5)), generator())
    assert np.array_equal(brighter, (single * 1.5).clip(0, 255).astype(np.uint8))
    pixels = picture()
    grey = distort(pixels, one_of(saturation=(0, 0)), generator())
    assert (grey.max(2) - grey.min(2)).max() == 0
    assert np.abs(grey.max(2).astype(int) - pixels.max(2)).max() <= 1
    turned = distort(pixels, one_of(hue=18), generator())
    assert (turned.max(2) == pixels.max(2)).all()
    assert not np.array_equal(turned, pixels)


def test_how_often_colours_change():
    """Left as it is: no change drawn, (1/2)^4."""
    pixels = picture(6, 6)
    random = generator()
    changed = [
        distort(pixels, SegmentationAugmentConfig(), random) is not pixels for _ in range(2000)
    ]
    assert np.mean(changed) == pytest.approx(15 / 16, abs=0.02)
    never = SegmentationAugmentConfig(photometric=0)
    assert distort(pixels, never, random) is pixels


def test_a_view_that_changes_nothing():
    config = SegmentationDataConfig(min_size=0, crop_size=64, augment=PLAIN)
    pixels, mask = picture(20, 30), np.zeros((20, 30), np.int16)
    image, values = train_view(pixels, mask, config, generator())
    assert np.array_equal(image.permute(1, 2, 0).numpy(), pixels)
    assert np.array_equal(values, mask)
