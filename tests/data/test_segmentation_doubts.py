"""Sets that can be read, but hardly as they are taken: ignored classes, turned pictures."""

import numpy as np
import pytest
from PIL import Image

from convnext.cli import main
from convnext.data import SegmentationDataConfig, check_images
from convnext.data.segmentation import (
    IGNORE,
    find_doubt,
    is_segmentation_set,
    open_segmentation,
    survey_masks,
)
from convnext.data.segmentation.doctor import scan_segmentation
from convnext.recipes.recipe import Recipe
from convnext.run.segmentation import SEGMENTATION
from convnext.tasks.segment import SegmentConfig
from shapes import SEGMENTS, write_segmentation

ORIENTATION = 0x0112


def settings(path, **options):
    return SegmentationDataConfig(path=str(path), **options)


def open_to_train(path, **options):
    return SEGMENTATION.open(Recipe(task=SegmentConfig(), data=settings(path, **options)))


def doubt(path, **options):
    train = open_segmentation(settings(path, **options)).train
    return find_doubt(train, survey_masks(train).pixels.sum(axis=0).tolist())


def recode(root, table, folder="masks"):
    """Give the values 0 to 3 and 255 of all masks other ones."""
    for file in (root / folder).rglob("*.png"):
        pixels = np.asarray(Image.open(file))
        Image.fromarray(
            np.select([pixels == v for v in table], table.values(), 0).astype(np.uint8)
        ).save(file)


def like_ade20k(tmp_path, table):
    """Folders as those of ADE20K, with other values: those of the made-up set are 1 to 4 and 0."""
    root = write_segmentation(tmp_path / "set", 4, 2, layout="ade20k")
    recode(root, table, "annotations")
    return root


FOREIGN = {
    "0, 1 and 255": {0: 255, 1: 0, 2: 1, 3: 1, 4: 1},
    "0 to 3": {0: 0, 1: 0, 2: 1, 3: 2, 4: 3},
    "0 and 1": {0: 0, 1: 0, 2: 1, 3: 1, 4: 1},
}


@pytest.mark.parametrize("case", FOREIGN)
def test_folders_like_ade20k_with_values_that_are_not(tmp_path, capsys, case):
    root = like_ade20k(tmp_path, FOREIGN[case])
    message = r"folders are called like those of ADE20K.*values 0, 1.* % of the pixels.*\"0 NAME\""
    with pytest.raises(ValueError, match=message):
        open_to_train(root)
    assert main(["doctor", "--data", str(root), "--workers", "0"]) == 1
    assert "called like those of ADE20K" in capsys.readouterr().out
    # What was said outright is not doubted.
    assert doubt(root, reduce_zero_label="no") is None
    values = sorted({0, *FOREIGN[case].values()} - {255})
    (root / "classes.txt").write_text("".join(f"{v} class {v}\n" for v in values))
    splits = open_to_train(root)
    assert splits.classes == tuple(f"class {v}" for v in values)
    assert all((survey_masks(splits.train).pixels[:, :-1].sum(0) > 0).tolist())


def test_ade20k_itself_is_not_doubted(tmp_path):
    root = write_segmentation(tmp_path / "set", 4, 2, layout="ade20k")
    assert len(open_to_train(root).train) == 4
    assert scan_segmentation(settings(root), workers=0).ok
    # Much is ignored, but of many classes.
    many = np.arange(64, dtype=np.uint8).reshape(8, 8).repeat(8, 0).repeat(8, 1) * 2
    many[:24] = 0
    for file in (root / "annotations").rglob("*.png"):
        Image.fromarray(many).save(file)
    assert len(open_to_train(root).train) == 4
    for file in (root / "annotations").rglob("*.png"):  # as said outright, few will do
        Image.fromarray((many > 20).astype(np.uint8) * 3 - (many > 90)).save(file)
    assert len(open_to_train(root, reduce_zero_label="yes").train) == 4


def test_a_list_of_classes_says_what_zero_is(tmp_path):
    root = write_segmentation(tmp_path / "set", 4, 2, layout="ade20k")
    (root / "classes.txt").write_text("\n".join(("void", *SEGMENTS)))
    train = open_to_train(root).train
    assert not train.coding.assumed
    assert train.coding.values[0] == IGNORE
    assert train.coding.values[1] == 0


def test_black_and_white_masks_with_a_list_of_two_classes(tmp_path):
    root = write_segmentation(tmp_path / "set", 4, 2)
    (root / "classes.txt").write_text("ground\nthing\n")
    recode(root, {0: 0, 1: 255, 2: 255, 3: 255, 255: 0})
    message = r"only 'ground' occurs in the training masks; value 255 occurs there, and is ignored"
    with pytest.raises(ValueError, match=rf'{message}.*"255 NAME"; or set masks = instances'):
        open_to_train(root)
    report = scan_segmentation(settings(root), workers=0)
    assert [found.kind for found in report.errors] == ["one_class"]
    assert "value 255 occurs there, and is ignored" in report.errors[0].message
    assert len(open_to_train(root, masks="instances").train) == 4
    (root / "classes.txt").write_text("0 ground\n255 thing\n")
    assert len(open_to_train(root).train) == 4
    assert scan_segmentation(settings(root), workers=0).ok


def test_one_class_without_anything_ignored(tmp_path):
    root = write_segmentation(tmp_path / "set", 3, 1)
    recode(root, {0: 1, 1: 1, 2: 1, 3: 1, 255: 1})
    with pytest.raises(ValueError, match=r"only 'rectangle' occurs in the training masks$"):
        open_to_train(root)


def turn(path, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    with Image.open(path) as image:
        image.load()
        image.save(path, exif=exif)


def turned_images(root):
    report = scan_segmentation(settings(root), workers=0)
    assert report.ok
    return sum((found.files for found in report.warnings if found.kind == "turned"), ())


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_images_and_masks_are_each_turned_as_they_say(tmp_path, orientation, ending):
    root = write_segmentation(tmp_path / "set", 2, 1, vary=True)
    train = open_segmentation(settings(root)).train
    image, mask = train.path(0), train.mask_name(0)
    before = train.mask(0)
    turn(image, orientation)
    turned = root / "masks" / "train" / f"{image.stem}{ending}"
    with Image.open(mask) as stored:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        stored.load()
        (root / "masks" / "train" / image.name).unlink()
        stored.save(turned, exif=exif)
    splits = check_images(open_segmentation(settings(root)), settings(root))
    row = next(i for i in range(2) if splits.train.path(i) == image)
    quarter = {3: 2, 6: 3}[orientation]
    assert np.array_equal(splits.train.mask(row), np.rot90(before, quarter))
    assert splits.train.read(row).size == splits.train.mask(row).shape[::-1]
    assert splits.train.turns(row) == (orientation, orientation)
    assert turned_images(root) == ()


def test_the_doctor_finds_images_that_are_turned_without_their_masks(tmp_path):
    root = write_segmentation(tmp_path / "set", 3, 1)  # squares: no size would tell
    turn(root / "images" / "train" / "train_0001.png", 6)
    (name,) = turned_images(root)
    assert name.endswith("images/train/train_0001.png")


def photographs(folder, count, seed, white=0.0):
    """Noise on a white ground, which covers a part of each picture."""
    folder.mkdir(parents=True)
    random = np.random.RandomState(seed)
    for i in range(count):
        pixels = random.randint(0, 256, (64, 64, 3), np.uint8)
        pixels[: int(64 * white)] = 255
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")


@pytest.mark.parametrize("white", [0, 0.6, 0.9])
def test_classes_that_are_called_like_images_and_their_masks(tmp_path, white):
    for number, name in enumerate(("cat", "face", "face_mask")):
        photographs(tmp_path / "set" / name, 6, number, white)
    assert not is_segmentation_set(str(tmp_path / "set"))
    # Whatever contradicts itself if it is taken for masks:
    photographs(tmp_path / "more", 2, 9, white)
    (tmp_path / "more" / "000.png").rename(tmp_path / "set" / "face" / "000.jpg")
    assert not is_segmentation_set(str(tmp_path / "set"))
    (tmp_path / "set" / "labels.txt").write_text("cat\ncat\n")
    assert not is_segmentation_set(str(tmp_path / "set"))


def test_a_list_of_classes_beside_classes_is_none_of_masks(tmp_path, make_folder):
    root = make_folder({"cat": 3, "dog": 3})
    (root / "labels.txt").write_text("cat\ncat\n")
    assert not is_segmentation_set(str(root))


def test_pictures_beside_masks_of_any_name(tmp_path):
    root = write_segmentation(tmp_path / "set", 4, 0, layout="pairs")
    (root / "train").rename(root / "face")
    (root / "trainannot").rename(root / "face_mask")
    assert is_segmentation_set(str(root))
    (root / "classes.txt").write_text("a\na\n")  # it says what is wrong when it is opened
    assert is_segmentation_set(str(root))


@pytest.mark.parametrize("place", ["images/train", "images/val"])
def test_a_mask_is_of_one_image(tmp_path, place):
    """Two pictures of one scene would be divided between training and validation."""
    root = write_segmentation(tmp_path / "set", 3, 2)
    for file in list((root / "masks").rglob("*.png")):
        file.rename(root / "masks" / file.name)
    copy = root / place / "train_0001_rgb.png"
    Image.open(root / "images" / "train" / "train_0000.png").save(copy)
    message = (
        r"set: masks/train_0001.png looks like the mask of both "
        rf"(?=.*images/train/train_0001.png)(?=.*{place}/train_0001_rgb.png).*keep one of"
    )
    with pytest.raises(ValueError, match=message):
        open_segmentation(settings(root))
    assert is_segmentation_set(str(root))
