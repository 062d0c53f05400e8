"""The augmentation has the numbers of the specification, the evaluation view is torchvision's."""

import math
import pickle
import random
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as tv

from convnext.data import AugmentConfig, DataConfig, Mixup, eval_transform, train_transform
from convnext.data.dataset import seed_generators

BICUBIC = tv.InterpolationMode.BICUBIC
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OFF = AugmentConfig(rand_augment="", hflip=0.0, erase_prob=0.0)


def restore(tensor, config):
    """Normalised tensor back to uint8 (H, W, C)."""
    mean = torch.tensor(config.channel_mean).view(-1, 1, 1)
    std = torch.tensor(config.channel_std).view(-1, 1, 1)
    return ((tensor * std + mean) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("size", [(500, 375), (90, 333), (224, 224), (257, 256), (30, 20)])
@pytest.mark.parametrize("image_size", [224, 64, 288])
def test_eval_view_is_resize_and_center_crop(picture, size, image_size):
    image = picture(0, *size)
    expected = tv.Compose(
        [
            tv.Resize(int(image_size / 0.875), BICUBIC),
            tv.CenterCrop(image_size),
            tv.ToTensor(),
            tv.Normalize(MEAN, STD),
        ]
    )(image)
    assert torch.equal(eval_transform(DataConfig(image_size=image_size))(image), expected)


def test_eval_view_from_384_is_squashed(picture):
    image = picture(1, 500, 375)
    expected = tv.Compose([tv.Resize((384, 384), BICUBIC), tv.ToTensor(), tv.Normalize(MEAN, STD)])
    assert torch.equal(eval_transform(DataConfig(image_size=384))(image), expected(image))
    small = DataConfig(image_size=96, crop_mode="squash", interpolation="bilinear")
    expected = tv.Compose([tv.Resize((96, 96)), tv.ToTensor(), tv.Normalize(MEAN, STD)])
    assert torch.equal(eval_transform(small)(image), expected(image))
    cropped = eval_transform(DataConfig(image_size=384, crop_mode="center"))(image)
    expected = tv.Compose(
        [tv.Resize(438, BICUBIC), tv.CenterCrop(384), tv.ToTensor(), tv.Normalize(MEAN, STD)]
    )
    assert torch.equal(cropped, expected(image))


def test_eval_view_of_a_very_long_image_is_the_middle_of_it(picture):
    image = picture(2, 3000, 40)
    full = tv.Compose([tv.Resize(256, BICUBIC), tv.CenterCrop(224)])(image)
    config = DataConfig()
    view = restore(eval_transform(config)(image), config)
    assert np.abs(view.astype(int) - np.asarray(full).astype(int)).max() <= 1
    for size in ((1, 1), (1, 60_000), (60_000, 2)):
        assert eval_transform(config)(picture(3, *size)).shape == (3, 224, 224)


def test_32_pixels_are_left_alone_in_evaluation(picture):
    image = picture(4, 32, 32)
    config = DataConfig(image_size=32)
    assert np.array_equal(restore(eval_transform(config)(image), config), np.asarray(image))
    assert eval_transform(config)(picture(4, 90, 50)).shape == (3, 32, 32)


def test_32_pixels_are_padded_and_cropped_in_training(picture):
    image = picture(5, 32, 32)
    config = DataConfig(image_size=32, augment=OFF)
    padded = np.pad(np.asarray(image), ((4, 4), (4, 4), (0, 0)))
    transform = train_transform(config)
    places = set()
    for seed in range(60):
        seed_generators(seed)
        view = restore(transform(image), config)
        fits = [
            (y, x)
            for y in range(9)
            for x in range(9)
            if np.array_equal(padded[y : y + 32, x : x + 32], view)
        ]
        assert len(fits) == 1
        places.add(fits[0])
    assert {y for y, _ in places} == {x for _, x in places} == set(range(9))
    assert transform(picture(5, 28, 28)).shape == transform(picture(5, 90, 50)).shape == (3, 32, 32)


def test_64_pixels_keep_the_random_resized_crop(picture):
    config = DataConfig(image_size=64, augment=OFF)
    image = picture(6, 64, 64)
    seed_generators(1)
    view = restore(train_transform(config)(image), config)
    seed_generators(1)
    box = train_transform(config).crop_box(image, (0.08, 1.0), (3 / 4, 4 / 3))
    expected = tv.functional.resized_crop(image, *box, [64, 64], BICUBIC)
    assert box[2:] != (64, 64)
    assert np.array_equal(view, np.asarray(expected))


def test_random_crop_distribution():
    """Area uniform in 8 %..100 %, aspect log-uniform in 3/4..4/3, given that the box fits."""
    image = Image.new("L", (1000, 1000))
    crop_box = train_transform(DataConfig()).crop_box
    random.seed(0)
    boxes = np.array([crop_box(image, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(4000)])
    area = boxes[:, 2] * boxes[:, 3] / 1e6
    aspect = np.log(boxes[:, 3] / boxes[:, 2])
    assert area.min() > 0.079
    assert area.max() <= 1
    assert np.abs(aspect).max() <= math.log(4 / 3) + 0.01
    fits = area < 0.75  # every such box fits, so nothing was drawn again
    assert abs(area[fits].mean() - (0.08 + 0.75) / 2) < 0.01
    assert abs(aspect[fits].std() - 2 * math.log(4 / 3) / math.sqrt(12)) < 0.006
    assert abs((aspect[fits]).mean()) < 0.01


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 9), (3000, 40)])
def test_training_view_of_odd_sizes(picture, size):
    transform = train_transform(DataConfig(image_size=64))
    for seed in range(30):
        seed_generators(seed)
        assert transform(picture(7, *size)).shape == (3, 64, 64)


def test_rand_augment_is_the_policy_of_the_specification():
    policy = train_transform(DataConfig()).policy
    assert policy.num_layers == 2
    assert policy.choice_weights is None  # drawn with replacement
    names = (
        "AutoContrast Equalize Invert Rotate PosterizeIncreasing SolarizeIncreasing SolarizeAdd "
        "ColorIncreasing ContrastIncreasing BrightnessIncreasing SharpnessIncreasing ShearX ShearY "
        "TranslateXRel TranslateYRel"
    )
    assert [op.name for op in policy.ops] == names.split()
    for op in policy.ops:
        assert (op.prob, op.magnitude, op.magnitude_std, op.magnitude_max) == (0.5, 9, 0.5, None)
        assert op.kwargs["fillcolor"] == (124, 116, 104)
        assert op.kwargs["resample"] == Image.Resampling.BICUBIC
    levels = {op.name: op.level_fn for op in policy.ops}
    at_nine = {
        "Rotate": {27.0, -27.0},
        "PosterizeIncreasing": {1},
        "SolarizeIncreasing": {26},
        "SolarizeAdd": {99},
        "ColorIncreasing": {1.81, 0.19},
        "ContrastIncreasing": {1.81, 0.19},
        "BrightnessIncreasing": {1.81, 0.19},
        "SharpnessIncreasing": {1.81, 0.19},
        "ShearX": {0.27, -0.27},
        "ShearY": {0.27, -0.27},
        "TranslateXRel": {0.405, -0.405},
        "TranslateYRel": {0.405, -0.405},
    }
    random.seed(0)
    for name, expected in at_nine.items():
        drawn = {round(levels[name](9.0, {})[0], 6) for _ in range(40)}
        assert drawn == expected, name


def test_rand_augment_draws(picture):
    """Each of two places holds each of 15 operations equally often and applies it half the time."""
    policy = train_transform(DataConfig()).policy
    applied = Counter()
    for op in policy.ops:
        op.aug_fn = lambda image, *_, op=op, **__: applied.update([op.name]) or image
    seed_generators(0)
    for _ in range(6000):
        policy(picture)
    assert abs(sum(applied.values()) - 6000) < 4 * math.sqrt(3000)
    for name, count in applied.items():
        assert abs(count - 400) < 4.5 * math.sqrt(400), name
    assert len(applied) == 15


def test_posterize_at_the_highest_level_is_black(picture):
    """Pillow refuses to keep 0 bits; the policy reaches that at level 10."""
    policy = train_transform(DataConfig()).policy
    (op,) = [op for op in policy.ops if op.name == "PosterizeIncreasing"]
    op.prob, op.magnitude, op.magnitude_std = 1.0, 10, 0
    for mode in ("RGB", "L"):
        assert not np.asarray(op(picture(8, mode=mode))).any()
    op.magnitude = 9
    assert set(np.unique(np.asarray(op(picture(8))))) == {0, 128}


def test_random_erasing():
    """A quarter of the images lose one box of noise N(0, 1) of 2 %..33 % of the area."""
    config = DataConfig(
        image_size=48, augment=AugmentConfig(rand_augment="", hflip=0.0, erase_prob=0.25)
    )
    erase = train_transform(config).erase
    seed_generators(3)
    areas, noise, ratios = [], [], []
    for _ in range(3000):
        changed = erase(torch.full((3, 100, 100), 7.0)) != 7.0
        if not changed.any():
            continue
        rows, columns = changed[0].any(1).sum().item(), changed[0].any(0).sum().item()
        assert changed.sum() == 3 * rows * columns  # one box, in all channels
        areas.append(rows * columns / 1e4)
        ratios.append(math.log(rows / columns))
    seed_generators(4)
    for _ in range(60):
        result = erase(torch.full((3, 100, 100), 7.0))
        noise.append(result[result != 7.0])
    values = torch.cat(noise)
    assert abs(len(areas) / 3000 - 0.25) < 0.03
    assert min(areas) > 0.018
    assert max(areas) < 0.34
    assert abs(np.mean(areas) - (0.02 + 1 / 3) / 2) < 0.015
    assert max(np.abs(ratios)) < math.log(1 / 0.3) + 0.15
    assert abs(values.mean()) < 0.02
    assert abs(values.std() - 1) < 0.02


def test_flips(picture):
    image = picture(9, 64, 64)
    views = {}
    for name, h, v in (("none", 0, 0), ("h", 1, 0), ("v", 0, 1)):
        augment = AugmentConfig(
            rand_augment="", hflip=h, vflip=v, erase_prob=0, scale=(1, 1), ratio=(1, 1)
        )
        views[name] = train_transform(DataConfig(image_size=64, augment=augment))(image)
    assert torch.equal(views["h"], views["none"].flip(2))
    assert torch.equal(views["v"], views["none"].flip(1))


def test_grey_images_train_and_evaluate_in_one_channel(picture):
    config = DataConfig(image_size=64, in_chans=1)
    assert config.channel_mean == pytest.approx([sum(MEAN) / 3])
    image = picture(10, mode="L")
    transform = train_transform(config)
    for seed in range(200):  # meets every operation of the policy
        seed_generators(seed)
        assert transform(image).shape == (1, 64, 64)
    assert eval_transform(config)(image).shape == (1, 64, 64)


def test_transforms_travel_to_other_processes(picture):
    for make in (train_transform, eval_transform):
        transform = make(DataConfig(image_size=64))
        seed_generators(5)
        first = transform(picture(11))
        seed_generators(5)
        assert torch.equal(pickle.loads(pickle.dumps(transform))(picture(11)), first)  # noqa: S301


def test_mixup_targets_by_hand():
    """λ y1 + (1 - λ) y2 with the partner from the other end of the batch."""
    mixup = Mixup(0.8, 0.0, 0.1, 4)
    images = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 1, 8, 8).clone()
    np.random.seed(0)
    mixed, target = mixup(images.clone(), torch.tensor([0, 3]))
    lam = 1 - mixed[0, 0, 0, 0].item()
    assert 0 < lam < 1
    assert torch.allclose(mixed[1], torch.full((1, 8, 8), lam))
    on, off = 0.925, 0.025
    expected = [lam * on + (1 - lam) * off, off, off, lam * off + (1 - lam) * on]
    assert torch.allclose(target[0], torch.tensor(expected))
    assert torch.allclose(target[1], torch.tensor(expected[::-1]))


def test_cutmix_targets_follow_the_pasted_area():
    mixup = Mixup(0.0, 1.0, 0.0, 2)
    for seed in range(20):
        np.random.seed(seed)
        images = torch.stack([torch.zeros(1, 10, 14), torch.ones(1, 10, 14)])
        mixed, target = mixup(images, torch.tensor([0, 1]))
        pasted = mixed[0].mean().item()
        assert torch.allclose(target[0], torch.tensor([1 - pasted, pasted]), atol=1e-6)
        rows, columns = mixed[0, 0].any(1).sum(), mixed[0, 0].any(0).sum()
        assert mixed[0].sum() == rows * columns  # a box


def test_mixup_switches_to_cutmix_half_the_time():
    mixup = Mixup(0.8, 1.0, 0.0, 2)
    np.random.seed(0)
    blended = 0
    for _ in range(400):
        images = torch.stack([torch.zeros(1, 9, 9), torch.ones(1, 9, 9)])
        mixed, _ = mixup(images, torch.tensor([0, 1]))
        blended += len(mixed[0].unique()) == 1 and 0 < mixed[0, 0, 0, 0] < 1
    assert 160 < blended < 240


def test_without_mixing_targets_are_smoothed():
    """Soft cross-entropy with these is 0.9 NLL + 0.1 mean(-log p), torch's label smoothing."""
    image, label = torch.randn(3, 3, 4, 4), torch.tensor([2, 0, 1])
    same, target = Mixup(0.0, 0.0, 0.1, 5)(image, label)
    assert same is image
    logits = torch.randn(3, 5)
    soft = torch.nn.functional.cross_entropy(logits, target)
    expected = torch.nn.functional.cross_entropy(logits, label, label_smoothing=0.1)
    assert torch.allclose(soft, expected)
    with pytest.raises(ValueError, match="3 cannot be paired; use an even micro-batch"):
        Mixup(0.8, 0.0, 0.1, 5)(image, label)
    with pytest.raises(ValueError, match="strengths must be 0"):
        Mixup(-0.1, 0.0, 0.1, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "image_size = 0"),
        ({"in_chans": 4}, "in_chans = 4: give 3"),
        ({"crop_pct": 1.5}, "crop_pct = 1.5"),
        ({"val_fraction": 0.6, "test_fraction": 0.5}, "nothing is left to train on"),
        ({"val_fraction": -0.1}, "val_fraction = -0.1"),
        ({"std": (0.0,)}, "every value must be above 0"),
        ({"mean": (0.5, 0.5)}, "give 1 or 3 numbers"),
        ({"workers": -2}, "workers = -2"),
    ],
)
def test_configuration_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rand_augment": "rand-x9"}, "policy such as 'rand-m9-mstd0.5-inc1'"),
        ({"hflip": 1.5}, "hflip = 1.5"),
        ({"scale": (0.5, 0.2)}, "scale"),
        ({"ratio": (0, 1)}, "ratio"),
        ({"pad": -1}, "pad = -1"),
    ],
)
def test_augmentation_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        AugmentConfig(**options)
