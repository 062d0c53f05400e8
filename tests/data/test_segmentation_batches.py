"""Batches: form, determinism, sharing, padding; the pictures to predict on."""

from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from convnext.data import (
    EvalBatches,
    SegmentationAugmentConfig,
    SegmentationDataConfig,
    TrainBatches,
)
from convnext.data.dataset import Key
from convnext.data.segmentation import (
    IGNORE,
    open_segmentation,
    segmentation_dataset,
)
from shapes import write_segmentation

SMALL = {"min_size": 64, "max_size": 160, "crop_size": 48, "window": 48, "stride": 32}
MEAN = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
STD = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return write_segmentation(tmp_path_factory.mktemp("shapes"), 14, 5, size=72, vary=True)


@pytest.fixture
def config(shapes):
    return SegmentationDataConfig(path=str(shapes), **SMALL)


@pytest.fixture
def train(config):
    return segmentation_dataset(open_segmentation(config).train, config, train=True, seed=5)


def same(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(first[key], second[key]) for key in first
    )


def test_form_of_a_training_batch(train):
    batch = train.fetch([Key(0, i) for i in range(6)])
    assert batch["image"].shape == (6, 3, 48, 48)
    assert batch["image"].dtype == torch.float32
    assert batch["mask"].shape == (6, 48, 48)
    assert batch["mask"].dtype == torch.int16
    assert batch["index"].tolist() == list(range(6))
    assert batch["index"].dtype == batch["original"].dtype == torch.int64
    assert batch["mask"].min() >= IGNORE
    assert batch["mask"].max() < 4
    for i in range(6):
        assert tuple(batch["original"][i].tolist()) == train.source.mask(i).shape


def test_what_is_smaller_is_padded(shapes):
    """With the mean colour, which is 0 after normalisation, and with what is ignored."""
    augment = SegmentationAugmentConfig(scale=(0.5, 0.5), photometric=0)
    config = SegmentationDataConfig(path=str(shapes), **SMALL, augment=augment)
    dataset = segmentation_dataset(open_segmentation(config).train, config, train=True)
    batch = dataset.fetch([Key(0, i) for i in range(8)])
    for image, mask, (h, w) in zip(
        batch["image"], batch["mask"], batch["original"].tolist(), strict=True
    ):
        factor = 32 / min(h, w)
        height, width = int(h * factor + 0.5), int(w * factor + 0.5)
        assert min(height, width) == 32
        assert (image[:, height:] == 0).all()
        assert (image[:, :, width:] == 0).all()
        assert (mask[height:] == IGNORE).all()
        assert (mask[:, width:] == IGNORE).all()
        inside = (image * STD + MEAN)[:, : min(height, 48), : min(width, 48)]
        assert (inside - inside.round()).abs().max() < 1e-3
        assert (mask[: min(height, 48), : min(width, 48)] >= 0).float().mean() > 0.9


def test_images_and_masks_stay_together(tmp_path):
    """A picture that shows its own mask: the class is the brightness."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    random = np.random.RandomState(0)
    for i in range(3):
        mask = random.randint(0, 5, (6, 9)).repeat(12, 0).repeat(12, 1).astype(np.uint8)
        Image.fromarray(mask).save(tmp_path / "masks" / f"{i}.png")
        Image.fromarray(50 * mask).save(tmp_path / "images" / f"{i}.png")
    augment = SegmentationAugmentConfig(photometric=0, vflip=0.5)
    config = SegmentationDataConfig(
        path=str(tmp_path), min_size=90, crop_size=64, augment=augment, val_fraction=0
    )
    dataset = segmentation_dataset(open_segmentation(config).train, config, train=True)
    for epoch in range(6):
        batch = dataset.fetch([Key(epoch, i) for i in range(3)])
        shown = (batch["image"] * STD + MEAN)[:, 0] / 50
        counted = batch["mask"] >= 0
        apart = (shown - batch["mask"]).abs()[counted]
        assert (apart < 0.05).float().mean() > 0.75  # all but the borders of areas
        assert apart.mean() < 0.25


def test_augmentation_is_a_function_of_the_key(train):
    def fetch(*keys):
        return train.fetch([Key(*key) for key in keys])

    assert same(fetch((0, 2), (1, 3)), fetch((0, 2), (1, 3)))
    alone, together = fetch((0, 2)), fetch((0, 5), (0, 2))
    assert torch.equal(alone["image"][0], together["image"][1])
    assert torch.equal(alone["mask"][0], together["mask"][1])
    for other in ((1, 2), (0, 2, 1)):
        assert not same(alone, fetch(other))
    state = np.random.get_state()[1].copy(), torch.get_rng_state()
    fetch((0, 1))
    assert np.array_equal(np.random.get_state()[1], state[0])
    assert torch.equal(torch.get_rng_state(), state[1])


def test_another_seed_gives_other_views(train, config):
    other = segmentation_dataset(open_segmentation(config).train, config, train=True, seed=6)
    assert not same(train.fetch([Key(0, 0)]), other.fetch([Key(0, 0)]))


def test_workers_change_nothing(train):
    taken = []
    for workers in (0, 2):
        batches = TrainBatches(train, batch_size=6, micro_batch=3, seed=1, workers=workers)
        stream = batches.iterate()
        taken.append(list(islice(stream, 6)))
        stream.close()
    assert all(same(a, b) for a, b in zip(*taken, strict=True))


def test_a_run_goes_on_where_it_stopped(train):
    batches = TrainBatches(train, batch_size=4, micro_batch=2, seed=1)
    whole = list(islice(batches.iterate(), 12))
    rest = list(islice(batches.iterate(start_step=4), 4))
    assert all(same(a, b) for a, b in zip(whole[8:], rest, strict=True))


def test_a_step_holds_the_same_images_for_any_sharing(train):
    def images(world, limit, step):
        parts = [
            TrainBatches(train, batch_size=12, micro_batch=limit, world=world, rank=rank, seed=2)
            for rank in range(world)
        ]
        return [key for part in parts for micro in part.keys(step) for key in micro]

    for step in (0, 3):
        whole = sorted(images(1, None, step))
        for world, limit in ((1, 3), (2, None), (2, 3), (4, 1), (3, 2)):
            assert sorted(images(world, limit, step)) == whole


def test_evaluation_view(config):
    val = open_segmentation(config).val
    dataset = segmentation_dataset(val, config, train=False)
    batch = dataset.fetch([Key(0, 1)])
    mask = val.mask(1)
    height, width = mask.shape
    factor = 64 / min(height, width)
    size = int(height * factor + 0.5), int(width * factor + 0.5)
    assert batch["image"].shape == (1, 3, *size)
    assert batch["mask"].dtype == torch.int16
    assert np.array_equal(batch["mask"][0].numpy(), mask)
    assert batch["original"].tolist() == [[height, width]]
    assert batch["index"].tolist() == [1]
    picture = np.asarray(val.read(1), np.float32)
    shown = batch["image"][0] * STD + MEAN
    assert torch.allclose(shown.mean((1, 2)), torch.from_numpy(picture.mean((0, 1))), atol=1.0)
    with pytest.raises(ValueError, match="one image a batch, not 2"):
        dataset.fetch([Key(0, 0), Key(0, 1)])


def test_images_may_keep_their_size(shapes):
    config = SegmentationDataConfig(path=str(shapes), **SMALL | {"min_size": 0})
    val = open_segmentation(config).val
    batch = segmentation_dataset(val, config, train=False).fetch([Key(0, 0)])
    picture = torch.from_numpy(np.array(val.read(0))).permute(2, 0, 1)
    assert torch.allclose(batch["image"][0] * STD + MEAN, picture.float(), atol=1e-3)
    assert batch["image"].shape[2:] == batch["mask"].shape[1:]


@pytest.mark.parametrize("workers", [0, 2])
def test_every_validation_image_once(config, workers):
    val = open_segmentation(config).val
    seen = []
    for rank in range(2):
        dataset = segmentation_dataset(val, config, train=False)
        for batch in EvalBatches(dataset, batch_size=1, world=2, rank=rank, workers=workers):
            assert batch.keys() == {"image", "mask", "index", "original"}
            seen += batch["index"].tolist()
    assert sorted(seen) == [-1, 0, 1, 2, 3, 4]


def test_grey(config, shapes):
    grey = SegmentationDataConfig(path=str(shapes), in_chans=1, **SMALL)
    splits = open_segmentation(grey)
    batch = segmentation_dataset(splits.train, grey, train=True).fetch([Key(0, 0), Key(0, 1)])
    assert batch["image"].shape == (2, 1, 48, 48)
    batch = segmentation_dataset(splits.val, grey, train=False).fetch([Key(0, 0)])
    assert batch["image"].shape[1] == 1


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (31, 65), (129, 2)])
def test_odd_sizes(tmp_path, size):
    height, width = size
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    (tmp_path / "classes.txt").write_text("a\nb\n")
    pixels = np.random.RandomState(0).randint(0, 255, (height, width, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "images" / "x.png")
    Image.fromarray((pixels[..., 0] > 99).astype(np.uint8)).save(tmp_path / "masks" / "x.png")
    config = SegmentationDataConfig(path=str(tmp_path), val_fraction=0, **SMALL)
    train = open_segmentation(config).train
    dataset = segmentation_dataset(train, config, train=True)
    for epoch in range(4):
        batch = dataset.fetch([Key(epoch, 0)])
        assert batch["image"].isfinite().all()
        assert (batch["mask"] >= 0).any()
    view = segmentation_dataset(train, config, train=False).fetch([Key(0, 0)])
    assert view["mask"].shape == (1, height, width)
    assert max(view["image"].shape[2:]) <= 160


def test_real_scenes(real_images):
    config = SegmentationDataConfig(path=str(real_images / "camvid"), min_size=180, crop_size=160)
    dataset = segmentation_dataset(open_segmentation(config).train, config, train=True)
    batch = dataset.fetch([Key(0, i) for i in range(12)])
    assert batch["image"].shape == (12, 3, 160, 160)
    assert len(batch["mask"].unique()) >= 11
    assert abs(float(batch["image"].mean())) < 1.5
    assert (batch["mask"] >= 0).float().mean() > 0.5
