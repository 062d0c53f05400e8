"""Every form of segmentation set: found by looking, paired, split, with its classes."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convnext.data import SegmentationDataConfig
from convnext.data.detection import is_detection_set
from convnext.data.segmentation import (
    IGNORE,
    is_segmentation_set,
    open_segmentation,
    open_segmentation_for_evaluation,
)
from convnext.data.segmentation.names import ADE20K, CITYSCAPES, VOC
from convnext.run.doctor import doctor
from shapes import SEGMENTS, write_coco, write_segmentation

TYPICAL = ("plain", "folders", "pairs")


def open_at(path, **options):
    return open_segmentation(SegmentationDataConfig(path=str(path), **options))


def evaluation(path, *arguments, **options):
    config = SegmentationDataConfig(path=str(path), **options)
    return open_segmentation_for_evaluation(config, *arguments)


def present(source):
    """The names of the classes that occur in the masks of a source."""
    values = set()
    for i in range(len(source)):
        mask = source.mask(i)
        assert mask.dtype == np.int16
        assert mask.shape == source.read(i).size[::-1]
        values |= set(np.unique(mask).tolist())
    return {source.classes[value] for value in values - {IGNORE}}, IGNORE in values


@pytest.mark.parametrize("layout", TYPICAL)
def test_folders_with_a_list_of_classes(tmp_path, layout):
    root = write_segmentation(tmp_path / "set", 5, 3, layout=layout, vary=True)
    assert is_segmentation_set(str(root))
    assert not is_detection_set(str(root))
    splits = open_at(root)
    assert splits.classes == splits.train.classes == SEGMENTS
    assert {name: len(part) for name, part in splits.named().items()} == {"train": 5, "val": 3}
    assert present(splits.train) == (set(SEGMENTS), True)
    source, classes, split = evaluation(root)
    assert (len(source), classes, split) == (3, SEGMENTS, "val")


def test_one_folder_is_divided(tmp_path):
    root = write_segmentation(tmp_path / "set", 8, 2, layout="flat")
    first, again = open_at(root, val_fraction=0.3), open_at(root, val_fraction=0.3)
    assert (len(first.train), len(first.val), first.test) == (7, 3, None)
    assert [first.val.key(i) for i in range(3)] == [again.val.key(i) for i in range(3)]
    assert len(open_at(root, test_fraction=0.2).test) == 2
    assert evaluation(root)[2] == "all"


@pytest.mark.parametrize(
    ("layout", "names", "numbers"),
    [
        ("ade20k", ADE20K, (0, 1, 2, 3)),
        ("voc", VOC, (0, 1, 2, 3)),
        ("cityscapes", CITYSCAPES, (0, 2, 11, 13)),
    ],
)
def test_published_forms_know_their_classes(tmp_path, layout, names, numbers):
    root = write_segmentation(tmp_path / "set", 5, 2, layout=layout)
    assert is_segmentation_set(str(root))
    splits = open_at(root)
    assert splits.classes == names
    assert (len(splits.train), len(splits.val)) == (5, 2)
    found, ignored = present(splits.train)
    assert found == {names[number] for number in numbers}
    assert ignored  # the value that each form has for that


def test_ade20k_with_other_classes(tmp_path):
    root = write_segmentation(tmp_path / "set", 3, 2, layout="ade20k")
    plain = open_at(root)
    (root / "classes.txt").write_text("\n".join(SEGMENTS))
    named = open_at(root)
    assert named.classes == SEGMENTS
    assert np.array_equal(named.train.mask(0), plain.train.mask(0))
    kept = open_at(root, reduce_zero_label="no")
    with pytest.raises(ValueError, match=r"value 4 .* outside the 4 classes"):
        present(kept.train)
    (root / "classes.txt").unlink()
    assert open_at(root, reduce_zero_label="no").train.mask(0).min() == 0


def test_zero_label_is_left_alone_in_other_forms(tmp_path):
    root = write_segmentation(tmp_path / "set", 3, 1)
    (root / "classes.txt").write_text("\n".join(SEGMENTS[1:]))
    with pytest.raises(ValueError, match=r"value 3 .* outside the 3 classes .*values 0 to 2"):
        present(open_at(root).train)
    reduced = open_at(root, reduce_zero_label="yes").train
    assert present(reduced) == (set(SEGMENTS[1:]), True)


def test_cityscapes_by_training_ids(tmp_path):
    root = write_segmentation(tmp_path / "set", 3, 1, layout="cityscapes")
    before = open_at(root)
    ids = np.full(256, 255, np.uint8)
    ids[[7, 11, 24, 26]] = 0, 2, 11, 13
    for file in root.rglob("*_labelIds.png"):
        name = file.name.replace("_labelIds", "_labelTrainIds")
        Image.fromarray(ids[np.asarray(Image.open(file))]).save(file.with_name(name))
    after = open_at(root)
    assert after.train.mask_name(0).endswith("_labelTrainIds.png")
    assert np.array_equal(after.train.mask(0), before.train.mask(0))


def test_the_fillers_of_cityscapes_are_no_test_split(tmp_path):
    root = write_segmentation(tmp_path / "set", 3, 1, layout="cityscapes")
    for top, ending in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelIds")):
        shutil.copytree(root / top / "val", root / top / "test")
        (root / top / "train_extra" / "bonn").mkdir(parents=True)
        shutil.copy(
            next((root / top / "val" / "ulm").iterdir()),
            root / top / "train_extra" / "bonn" / f"x_{ending}.png",
        )
    shutil.rmtree(root / "gtFine" / "train_extra")  # coarse masks are elsewhere
    assert len(open_at(root).test) == 1
    for file in (root / "gtFine" / "test").rglob("*.png"):
        Image.new("L", (64, 64), 3).save(file)
    assert open_at(root).test is None
    assert len(open_at(root).train) == 3
    with pytest.raises(ValueError, match="no split 'test'; found: train, val"):
        evaluation(root, "test")


def test_voc_lists_decide(tmp_path):
    root = write_segmentation(tmp_path / "set", 4, 2, layout="voc")
    shutil.copy(root / "JPEGImages" / "train_0000.jpg", root / "JPEGImages" / "unlabelled.jpg")
    lists = root / "ImageSets" / "Segmentation"
    lines = (lists / "train.txt").read_text() + (lists / "val.txt").read_text()
    (lists / "trainval.txt").write_text(lines)
    (lists / "test.txt").write_text("unlabelled\n")
    splits = open_at(root)
    assert (len(splits.train), len(splits.val), splits.test) == (4, 2, None)
    (lists / "train.txt").unlink()
    (lists / "val.txt").unlink()
    assert len(open_at(root, val_fraction=0).train) == 6
    shutil.rmtree(root / "ImageSets")
    assert len(open_at(root, val_fraction=0).train) == 6  # the picture without a mask is not one
    (root / "classes.txt").write_text("\n".join(SEGMENTS))
    assert open_at(root).classes == SEGMENTS


def test_voc_masks_as_pictures(tmp_path):
    """The colours of VOC, as some copies of it store them."""
    root = write_segmentation(tmp_path / "set", 3, 1, layout="voc")
    before = open_at(root).train.mask(0)
    palette = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [224, 224, 192]])
    for file in (root / "SegmentationClass").iterdir():
        values = np.minimum(np.asarray(Image.open(file)), 4)
        Image.fromarray(palette[values].astype(np.uint8)).save(file)
    assert np.array_equal(open_at(root).train.mask(0), before)
    reduced = open_at(root, reduce_zero_label="yes")
    assert reduced.classes == VOC[1:]
    assert np.array_equal(reduced.train.mask(0), np.maximum(before - 1, IGNORE))


def test_voc_with_boxes_too_is_a_detection_set(tmp_path):
    root = write_segmentation(tmp_path / "set", 2, 1, layout="voc")
    (root / "Annotations").mkdir()
    (root / "Annotations" / "train_0000.xml").write_text("<annotation/>")
    assert is_detection_set(str(root))
    assert is_segmentation_set(str(root))
    assert open_at(root).classes == VOC


def test_classes_that_nobody_names(tmp_path):
    root = write_segmentation(tmp_path / "set", 6, 3, names=False)
    spread = np.arange(256).astype(np.uint8)
    spread[:4] = 10, 0, 77, 200
    for file in (root / "masks").rglob("*.png"):
        Image.fromarray(spread[np.asarray(Image.open(file))]).save(file)
    splits = open_at(root)
    assert splits.classes == ("0", "10", "77", "200")
    assert present(splits.train) == (set(splits.classes), True)
    assert present(splits.val)[0] <= set(splits.classes)
    reduced = open_at(root, reduce_zero_label="yes")
    assert reduced.classes == ("10", "77", "200")
    assert open_at(root, ignore_values=()).classes == ("0", "10", "77", "200", "255")
    source, classes, _ = evaluation(root, "auto", splits.classes)
    assert classes == splits.classes
    assert np.array_equal(source.mask(0), splits.val.mask(0))
    numbered, _, _ = evaluation(root, "auto", ("200", "10", "0", "5", "77"))
    wanted = np.array([2, 1, 4, 0, IGNORE])[splits.val.mask(1)]
    assert np.array_equal(numbered.mask(1), wanted)


def test_values_of_masks_without_names_number_the_classes_of_a_model(tmp_path):
    root = write_segmentation(tmp_path / "set", 2, 2, names=False)
    source, classes, _ = evaluation(root, "auto", SEGMENTS)
    assert classes == SEGMENTS
    assert present(source)[0] <= set(SEGMENTS)
    with pytest.raises(ValueError, match=r"outside the 2 classes of the model \(values 0 to 1\)"):
        present(evaluation(root, "train", ("a", "b"))[0])


def test_classes_of_a_model_are_matched_by_name(tmp_path):
    root = write_segmentation(tmp_path / "set", 4, 2)
    names = ("triangle", "dog", *SEGMENTS[:3])
    source, classes, split = evaluation(root, "train", names)
    assert (classes, split) == (names, "train")
    wanted = np.array([2, 3, 4, 0, IGNORE])[open_at(root).train.mask(0)]
    assert np.array_equal(source.mask(0), wanted)
    with pytest.raises(ValueError, match=r"'triangle' not among the 3 classes of the model"):
        evaluation(root, "val", SEGMENTS[:3])


@pytest.mark.parametrize("classes", [None, ("background", "nucleus")])
def test_numbered_objects(tmp_path, classes):
    root = write_segmentation(tmp_path / "set", 3, 2)
    config = SegmentationDataConfig(path=str(root), masks="instances")
    source, names, _ = open_segmentation_for_evaluation(config, "val", classes)
    assert names == (classes or ("background", "object"))
    plain = open_at(root, ignore_values=(), val_fraction=0).val
    stored = np.asarray(Image.open(plain.mask_name(0)))
    assert np.array_equal(source.mask(0), stored > 0)
    with pytest.raises(ValueError, match="'object' not among the 3 classes"):
        open_segmentation_for_evaluation(config, "val", ("background", "a", "b"))


ENDINGS = ["_mask", "-mask", "_label", "_labels", "_gt", "_seg", "_L", "_segmentation", ".jpg", ""]


@pytest.mark.parametrize("ending", ENDINGS)
def test_names_of_masks(tmp_path, ending):
    root = write_segmentation(tmp_path / "set", 2, 1)
    for file in list((root / "masks").rglob("*.png")):
        file.rename(file.with_name(f"{file.stem}{ending}.png"))
    splits = open_at(root)
    assert (len(splits.train), len(splits.val)) == (2, 1)
    assert Path(splits.val.mask_name(0)).name == f"val_0000{ending}.png"


def test_names_of_images(tmp_path):
    root = write_segmentation(tmp_path / "set", 2, 1)
    for folder, ending in (("images", "_sat"), ("masks", "_mask")):
        for file in list((root / folder).rglob("*.png")):
            file.rename(file.with_name(f"{file.stem}{ending}.png"))
    assert len(open_at(root).train) == 2


def test_two_masks_of_one_image(tmp_path):
    root = write_segmentation(tmp_path / "set", 2, 1)
    mask = root / "masks" / "train" / "train_0001.png"
    shutil.copy(mask, mask.with_name("train_0001_gt.png"))
    assert len(open_at(root).train) == 2  # that of the very name counts
    mask.rename(mask.with_name("train_0001_mask.png"))
    message = "both .*train_0001_gt.png and .*train_0001_mask.png look like the mask of"
    with pytest.raises(ValueError, match=message):
        open_at(root)
    assert is_segmentation_set(str(root))


@pytest.mark.parametrize("place", ["labels", "annotations", "semantic"])
def test_other_names_of_folders(tmp_path, place):
    root = write_segmentation(tmp_path / "set", 2, 1)
    (root / "masks").rename(root / place)
    assert is_segmentation_set(str(root))
    assert len(open_at(root).train) == 2


@pytest.mark.parametrize("where", ["images", "masks"])
def test_splits_on_one_side_only(tmp_path, where):
    root = write_segmentation(tmp_path / "set", 3, 2)
    other = {"images": "masks", "masks": "images"}[where]
    for file in list((root / other).rglob("*.png")):
        file.rename(root / other / file.name)
    for split in ("train", "val"):
        (root / other / split).rmdir()
    splits = open_at(root)
    assert (len(splits.train), len(splits.val)) == (3, 2)


def test_splits_of_other_names(tmp_path):
    root = write_segmentation(tmp_path / "set", 3, 2)
    for folder in ("images", "masks"):
        (root / folder / "train").rename(root / folder / "train2017")
        (root / folder / "val").rename(root / folder / "Validation")
    splits = open_at(root)
    assert (len(splits.train), len(splits.val)) == (3, 2)
    root = write_segmentation(tmp_path / "other", 3, 2, layout="folders")
    (root / "val").rename(root / "test")
    assert (len(open_at(root).train), len(open_at(root).test)) == (2, 2)
    shutil.copytree(root / "train", root / "training")
    with pytest.raises(ValueError, match="two folders look like the train split"):
        open_at(root)


@pytest.mark.parametrize("ending", ["annot", "_labels", "_masks", "_annotations"])
def test_folders_beside_each_other(tmp_path, ending):
    root = write_segmentation(tmp_path / "set", 3, 1, layout="pairs")
    for split in ("train", "val"):
        (root / f"{split}annot").rename(root / f"{split}{ending}")
    assert len(open_at(root).val) == 1
    (root / "train").rename(root / "scenes")
    (root / f"train{ending}").rename(root / f"scenes{ending}")
    shutil.rmtree(root / "val")
    assert len(open_at(root, val_fraction=0).train) == 3


def test_folders_in_folders(tmp_path):
    """Recordings of several cities with pictures of the same names."""
    root = write_segmentation(tmp_path / "set", 3, 1)
    for folder in ("images", "masks"):
        (root / folder / "train" / "ulm").mkdir()
        for file in (root / folder / "train").glob("*.png"):
            shutil.copy(file, root / folder / "train" / "ulm" / file.name)
    train = open_at(root).train
    assert len(train) == 6
    for i in range(6):
        assert ("ulm" in train.name(i)) == ("ulm" in train.mask_name(i))


def test_names_beyond_ascii(tmp_path):
    root = write_segmentation(tmp_path / "Straße 道路", 3, 1)
    for folder in ("images", "masks"):
        file = root / folder / "train" / "train_0000.png"
        file.rename(file.with_name("größe 図.png"))
    (root / "classes.txt").write_text("Hintergrund\nRéctangle\n楕円\nτρίγωνο\n", encoding="utf-8")
    splits = open_at(root)
    assert splits.classes[2] == "楕円"
    assert any("größe 図" in splits.train.mask_name(i) for i in range(3))
    assert present(splits.train)[0] <= set(splits.classes)


def test_other_sets_are_not_taken_for_segmentation(tmp_path, make_folder):
    """Class folders that are called like those of a segmentation set, and sets of boxes."""
    for i, names in enumerate([("images", "masks"), ("images", "labels"), ("cat", "cat_masks")]):
        assert not is_segmentation_set(str(make_folder(dict.fromkeys(names, 6), f"a{i}")))
        split = {f"{s}/{name}": 6 for s in ("train", "val") for name in names}
        assert not is_segmentation_set(str(make_folder(split, f"b{i}")))
    assert not is_segmentation_set(str(write_coco(tmp_path / "coco", 2, 1, size=64)))
    yolo = make_folder({"images/train": 3}, "yolo")
    (yolo / "labels" / "train").mkdir(parents=True)
    for i in range(3):
        (yolo / "labels" / "train" / f"{i:03d}.txt").write_text("0 .5 .5 .1 .1\n")
    (yolo / "classes.txt").write_text("cat\n")
    assert not is_segmentation_set(str(yolo))
    for path in ("", "hf:beans", "elpv", str(tmp_path / "nothing"), "~nobody_of_this_name/x"):
        assert not is_segmentation_set(path)
    assert not is_segmentation_set("long" * 1000)
    assert not is_segmentation_set(str(yolo / "classes.txt"))


def test_sets_that_are_not_there(tmp_path, make_folder):
    with pytest.raises(ValueError, match="no data given; name a folder of images with masks"):
        open_at("")
    with pytest.raises(ValueError, match="no such file or folder"):
        open_at(tmp_path / "nothing")
    with pytest.raises(ValueError, match="no images with masks found; looked for images/ and"):
        open_at(make_folder({"cat": 2, "dog": 2}))
    root = write_segmentation(tmp_path / "set", 2, 2)
    shutil.rmtree(root / "masks" / "train")
    with pytest.raises(ValueError, match="no training images with masks; found only: val"):
        open_at(root)
    (root / "classes.txt").unlink()
    with pytest.raises(ValueError, match=r"nothing says which classes there are.*classes\.txt"):
        open_at(root)


def test_masks_in_black_and_white_say_what_to_do(tmp_path):
    """255 is ignored where nobody names it: so one class is left, and the message says so."""
    root = write_segmentation(tmp_path / "set", 3, 1, names=False)
    for file in (root / "masks").rglob("*.png"):
        Image.fromarray((np.asarray(Image.open(file)) > 0).astype(np.uint8) * 255).save(file)
    message = r"hold the values 0, 255 and of these the value 255 count.*ignore_values = \(\)"
    with pytest.raises(ValueError, match=message):
        open_at(root)
    assert open_at(root, ignore_values=()).classes == ("0", "255")
    assert open_at(root, masks="instances").classes == ("background", "object")
    (root / "classes.txt").write_text("0 ground\n255 thing\n")
    assert present(open_at(root).train) == ({"ground", "thing"}, False)


def test_masks_in_colours_say_what_to_do(tmp_path):
    root = write_segmentation(tmp_path / "set", 3, 1, names=False)
    palette = np.random.RandomState(0).randint(0, 256, (256, 3)).astype(np.uint8)
    for file in (root / "masks").rglob("*.png"):
        Image.fromarray(palette[np.asarray(Image.open(file))]).save(file)
    with pytest.raises(ValueError, match=r"a picture in \d colours .*name r g b"):
        open_at(root)
    lines = [f"{name} {r} {g} {b}" for name, (r, g, b) in zip(SEGMENTS, palette, strict=False)]
    r, g, b = palette[255]
    (root / "classes.txt").write_text("\n".join([*lines, f"void {r} {g} {b}"]))
    assert present(open_at(root).train) == (set(SEGMENTS), True)


def test_the_doctor_knows_the_form(tmp_path):
    said = []
    root = write_segmentation(tmp_path / "set", 4, 2, layout="ade20k")
    assert doctor(str(root), workers=0, say=said.append)
    assert "150 classes" in said[0]


@pytest.mark.parametrize(
    ("name", "options", "sizes", "classes"),
    [
        ("camvid", {}, (12, 6), 11),
        ("nuclei", {"masks": "instances"}, (110, 35), 2),
        ("coco_panoptic", {}, (12, 8), 41),
    ],
)
def test_real_sets(real_images, name, options, sizes, classes):
    path = real_images / name
    assert is_segmentation_set(str(path))
    splits = open_at(path, **options)
    assert (len(splits.train), len(splits.val)) == sizes
    assert len(splits.classes) == classes
    found, _ = present(splits.train.subset(np.arange(12)))
    if name != "camvid":
        assert found == set(splits.classes)
    else:
        assert (
            found
            == set(splits.classes)
            == set(path.joinpath("classes.txt").read_text().split()) - {"void"}
        )


def test_other_real_sets_are_none(real_images):
    for name in ("coco_mini", "caltech20", "flowers5", "bccd", "pets3", "odd_images"):
        assert not is_segmentation_set(str(real_images / name))
