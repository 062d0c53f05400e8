"""Batches: padding, grouping, determinism; the pictures to predict on."""

from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from convnext.data import DetectionAugmentConfig, DetectionDataConfig, EvalBatches, TrainBatches
from convnext.data.dataset import Key
from convnext.data.detection import DetectionFiles, detection_dataset, open_detection
from convnext.data.detection.rle import decode_mask
from shapes import write_coco, write_json

SMALL = {"min_size": 96, "max_size": 160}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("shapes"), 14, 5, size=80, vary=True)


@pytest.fixture
def config(shapes):
    return DetectionDataConfig(path=str(shapes), **SMALL)


@pytest.fixture
def train(config):
    return detection_dataset(open_detection(config).train, config, train=True, seed=5)


def same(first, second):
    assert first.keys() == second.keys()
    for key, value in first.items():
        pairs = zip(value, second[key], strict=True)
        if not all(torch.equal(a, b) for a, b in pairs):
            return False
    return True


def test_form_of_a_training_batch(train):
    batch = train.fetch([Key(0, i) for i in range(6)])
    image = batch["image"]
    assert image.dtype == torch.float32
    assert image.shape[2] % 32 == image.shape[3] % 32 == 0
    assert batch["index"].tolist() == list(range(6))
    assert batch["size"].amax(0).tolist() > [image.shape[2] - 32, image.shape[3] - 32]
    for i in range(6):
        height, width = batch["size"][i].tolist()
        assert (image[i, :, height:] == 0).all()
        assert (image[i, :, :, width:] == 0).all()
        assert image[i, :, height - 1, :width].abs().sum() > 0
        assert tuple(batch["original"][i].tolist()) == train.source.size(i)
        boxes, labels, masks = batch["boxes"][i], batch["labels"][i], batch["masks"][i]
        assert boxes.shape == (len(labels), 4)
        assert masks.shape == (len(labels), height, width)
        assert (boxes.dtype, labels.dtype, masks.dtype) == (
            torch.float32,
            torch.int64,
            torch.uint8,
        )
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([width, height, width, height])).all()


@pytest.mark.parametrize("policy", ["multiscale", "lsj", "resize"])
def test_boxes_and_masks_stay_together(config, policy):
    """What is left of a mask lies in the box, and meets its sides where the shape is whole."""
    config = DetectionDataConfig(
        path=config.path, augment=DetectionAugmentConfig(policy=policy, vflip=0.5), **SMALL
    )
    dataset = detection_dataset(open_detection(config).train, config, train=True)
    checked = 0
    for epoch in range(4):
        batch = dataset.fetch([Key(epoch, i) for i in range(len(dataset))])
        for boxes, masks, size in zip(batch["boxes"], batch["masks"], batch["size"], strict=True):
            for (x1, y1, x2, y2), mask in zip(boxes.tolist(), masks, strict=True):
                rows, columns = torch.nonzero(mask, as_tuple=True)
                if not len(rows):
                    continue
                # Two resizings to the nearest pixel may move or lose an edge of a pixel each.
                assert columns.min() >= x1 - 3
                assert columns.max() + 1 <= x2 + 3
                assert rows.min() >= y1 - 3
                assert rows.max() + 1 <= y2 + 3
                whole = x1 > 0 and y1 > 0 and x2 < size[1] and y2 < size[0]
                if whole and policy != "lsj":
                    assert columns.min() <= x1 + 3
                    assert rows.max() + 1 >= y2 - 3
                    checked += 1
    assert checked > 40 or policy == "lsj"


def test_without_augmentation_masks_are_the_annotated_ones(config):
    augment = DetectionAugmentConfig(policy="resize", hflip=0)
    config = DetectionDataConfig(path=config.path, min_size=160, max_size=999, augment=augment)
    dataset = detection_dataset(open_detection(config).train, config, train=True)
    batch = dataset.fetch([Key(0, 3)])
    height, width = dataset.source.size(3)
    factor = 160 / min(height, width)
    for rle, mask in zip(dataset.source.objects(3).rles, batch["masks"][0], strict=True):
        whole = decode_mask(rle, height, width)
        rows = (np.arange(mask.shape[0]) / factor).astype(int).clip(max=height - 1)
        columns = (np.arange(mask.shape[1]) / factor).astype(int).clip(max=width - 1)
        share = (whole[rows][:, columns] != mask.numpy()).mean()
        assert share < 0.02
    scale = torch.tensor([batch["size"][0, 1] / width, batch["size"][0, 0] / height] * 2)
    boxes = torch.from_numpy(dataset.source.objects(3).boxes)
    assert torch.allclose(batch["boxes"][0], boxes * scale, atol=1e-4)


def test_augmentation_is_a_function_of_the_key(train):
    def fetch(*keys):
        return train.fetch([Key(*key) for key in keys])

    assert same(fetch((0, 2), (1, 3)), fetch((0, 2), (1, 3)))
    alone, together = fetch((0, 2)), fetch((0, 5), (0, 2))
    assert torch.equal(alone["boxes"][0], together["boxes"][1])
    height, width = alone["size"][0]
    assert torch.equal(
        alone["image"][0, :, :height, :width], together["image"][1, :, :height, :width]
    )
    for other in ((1, 2), (0, 2, 1)):
        assert not same(alone, fetch(other))
    state = np.random.get_state()[1].copy(), torch.get_rng_state()
    fetch((0, 1))
    assert np.array_equal(np.random.get_state()[1], state[0])
    assert torch.equal(torch.get_rng_state(), state[1])


def test_workers_change_nothing(train):
    taken = []
    for workers in (0, 2):
        batches = TrainBatches(train, batch_size=6, micro_batch=3, seed=1, workers=workers)
        stream = batches.iterate()
        taken.append(list(islice(stream, 6)))
        stream.close()
    assert all(same(a, b) for a, b in zip(*taken, strict=True))


def test_a_step_holds_the_same_images_for_any_sharing_and_groups_their_shapes(train):
    def images(world, limit, step):
        parts = [
            TrainBatches(train, batch_size=12, micro_batch=limit, world=world, rank=rank, seed=2)
            for rank in range(world)
        ]
        return [key for part in parts for micro in part.keys(step) for key in micro]

    whole = images(1, None, 0)
    wide = [bool(train.source.shapes[key.image]) for key in whole]
    assert wide == sorted(wide)
    assert 0 < sum(wide) < 12
    for world, limit in ((1, 3), (2, None), (2, 3), (4, 1), (3, 2)):
        assert sorted(images(world, limit, 0)) == sorted(whole)
    micros = TrainBatches(train, batch_size=12, micro_batch=2, seed=2).keys(0)
    mixed = [len({int(train.source.shapes[key.image]) for key in micro}) > 1 for micro in micros]
    assert sum(mixed) <= 1


def test_every_validation_image_once(config):
    val = open_detection(config).val
    seen = []
    for rank in range(2):
        dataset = detection_dataset(val, config, train=False)
        for batch in EvalBatches(dataset, batch_size=2, world=2, rank=rank):
            assert batch.keys() == {"image", "size", "original", "index"}
            seen += batch["index"].tolist()
    assert sorted(seen) == [-1, 0, 1, 2, 3, 4]


def test_evaluation_view(config):
    val = open_detection(config).val
    batch = detection_dataset(val, config, train=False).fetch([Key(0, 1)])
    height, width = batch["size"][0].tolist()
    assert min(height, width) == 96
    picture = np.asarray(val.read(1), np.float32)
    image = batch["image"][0, :, :height, :width]
    mean = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
    std = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)
    assert torch.allclose(
        (image * std + mean).mean((1, 2)), torch.from_numpy(picture.mean((0, 1))), atol=1.0
    )


def test_which_images_train(config, shapes):
    source = open_detection(config).train
    bare = source.subset(np.arange(len(source)))
    table = bare._table
    ends = table.ends.copy()
    ends[0] = 0  # the first image gives its objects to the second
    object.__setattr__(table, "ends", ends)
    assert len(detection_dataset(bare, config, train=True)) == len(source) - 1
    wanted = DetectionDataConfig(path=config.path, negatives=True, **SMALL)
    dataset = detection_dataset(bare, wanted, train=True)
    assert len(dataset) == len(source)
    batch = dataset.fetch([Key(0, 0)])
    assert batch["boxes"][0].shape == (0, 4)
    assert batch["masks"][0].shape == (0, *batch["size"][0].tolist())
    none = source.subset(np.empty(0, np.int64))
    with pytest.raises(ValueError, match="no image to train on"):
        detection_dataset(none, config, train=True)


def test_grey(config):
    grey = DetectionDataConfig(path=config.path, in_chans=1, **SMALL)
    batch = detection_dataset(open_detection(grey).train, grey, train=True).fetch([Key(0, 0)])
    assert batch["image"].shape[1] == 1


@pytest.mark.parametrize("turn", [3, 6])
def test_exif_turn(tmp_path, turn):
    """Annotated as shown or as stored: the picture comes in the position that was annotated."""
    root = write_coco(tmp_path / "turned", 1, 1, size=64, vary=True)
    file = next((root / "val").iterdir())
    image = Image.open(file).resize((60, 40))
    exif = Image.Exif()
    exif[0x0112] = turn
    image.save(file, exif=exif)
    shown = (40, 60) if turn == 3 else (60, 40)
    for size in {shown, (40, 60)}:
        entry = {"id": 1, "file_name": file.name, "height": size[0], "width": size[1]}
        write_json(root / "annotations" / "instances_val.json", [entry], [])
        picture = open_detection(DetectionDataConfig(path=str(root))).val.read(0)
        assert picture.size == size[::-1]


def test_files_to_predict_on(shapes, tmp_path):
    config = DetectionDataConfig(min_size=64, max_size=100)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    long = tmp_path / "long.png"
    Image.new("RGBA", (1500, 3), (255, 0, 0, 128)).save(long)
    files = [str(broken), str(long), *sorted(map(str, (shapes / "val").iterdir()))]
    batches = DetectionFiles(iter(files), config, batch_size=2)
    taken = list(batches)
    assert [name for batch in taken for name in batch["name"]] == files[1:]
    assert [item.name for item in batches.unreadable] == [str(broken)]
    assert taken[0]["size"].tolist() == [[1, 100]]
    assert taken[0]["original"].tolist() == [[3, 1500]]
    assert taken[0]["picture"][0].size == (1500, 3)
    assert taken[0]["image"].shape == (1, 3, 32, 128)
    with pytest.raises(ValueError, match="batch size 0"):
        DetectionFiles(files, config, batch_size=0)


def test_real_images_keep_their_masks(real_images):
    """The area of masks after resizing is that of the annotation, to a percent."""
    augment = DetectionAugmentConfig(policy="resize")
    config = DetectionDataConfig(path=str(real_images / "coco_mini"), augment=augment)
    source = open_detection(config).train
    dataset = detection_dataset(source, config, train=True)
    for i in range(4):
        batch = dataset.fetch([Key(0, i)])
        objects = dataset.source.objects(i)
        height, width = dataset.source.size(i)
        scale = float(batch["size"][0].prod()) / (height * width)
        rles = [objects.rles[k] for k in np.flatnonzero(objects.trains)]
        areas = [coco_mask.area({"size": [height, width], "counts": rle}) for rle in rles]
        found = batch["masks"][0].sum((1, 2)) / scale
        assert torch.allclose(found, torch.tensor(areas, dtype=found.dtype), rtol=0.05, atol=20)
