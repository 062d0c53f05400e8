"""Masks as they are read, what is wrong with them, and what a whole set holds."""

import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from convnext.data import SegmentationDataConfig, cache, check_images
from convnext.data.segmentation import (
    IGNORE,
    MaskError,
    open_segmentation,
    open_segmentation_for_evaluation,
    segmentation_dataset,
    segmentation_summary,
    survey_masks,
    trained_images,
)
from convnext.data.segmentation.doctor import scan_segmentation
from convnext.run.doctor import doctor
from shapes import SEGMENTS, write_segmentation


@pytest.fixture
def shapes(tmp_path):
    return write_segmentation(tmp_path / "set", 5, 3, vary=True)


def settings(path, **options):
    return SegmentationDataConfig(path=str(path), **options)


def open_at(path, **options):
    return open_segmentation(settings(path, **options))


def replace_mask(root, change, name="train_0001", split="train"):
    file = root / "masks" / split / f"{name}.png"
    pixels = np.array(Image.open(file))
    Image.fromarray(change(pixels)).save(file)
    return file


def fill(value):
    return lambda pixels: np.full_like(pixels, value)


def test_masks_are_those_in_the_files(shapes):
    train = open_at(shapes).train
    for i in range(5):
        stored = np.array(Image.open(train.mask_name(i))).astype(int)
        stored[stored == 255] = IGNORE
        assert np.array_equal(train.mask(i), stored)
        assert train.mask(i).dtype == np.int16


def test_subsets_and_copies_keep_their_masks(shapes):
    train = open_at(shapes).train
    part = pickle.loads(pickle.dumps(train.subset(np.array([4, 1]))))  # noqa: S301
    for mine, whole in ((0, 4), (1, 1)):
        assert part.key(mine) == train.key(whole)
        assert part.mask_name(mine) == train.mask_name(whole)
        assert np.array_equal(part.mask(mine), train.mask(whole))
    assert part.classes == SEGMENTS


def drop(root):
    (root / "masks" / "train" / "train_0001.png").unlink()


def break_it(root):
    file = root / "masks" / "train" / "train_0001.png"
    file.write_bytes(file.read_bytes()[:60])


def no_image(root):
    (root / "masks" / "train" / "train_0001.png").write_bytes(b"text")


def grow(root):
    replace_mask(root, lambda pixels: np.pad(pixels, ((0, 3), (0, 1))))


def unknown(root):
    replace_mask(root, lambda pixels: np.where(pixels == 0, 77, pixels).astype(np.uint8))


FAILURES = [
    (drop, "missing_mask", r"images/train/train_0001.png: there is no mask for this image; add it"),
    (break_it, "unreadable_mask", r"masks/train/train_0001.png: damaged image .*mask is expected"),
    (no_image, "unreadable_mask", r"masks/train/train_0001.png: not an image .*mask is expected"),
    (
        grow,
        "size_mismatch",
        r"masks/train/train_0001.png: the mask has (\d+)x(\d+) pixels, its image .*images/train/"
        r"train_0001.png has \d+x\d+; both must have the same size",
    ),
    (
        unknown,
        "unknown_value",
        r"masks/train/train_0001.png: value 77 \(\d+ pixels\) is outside the 4 classes of "
        r".*classes.txt \(values 0 to 3\); name it in classes.txt, list it in ignore_values",
    ),
]


@pytest.mark.parametrize(("spoil", "kind", "message"), FAILURES)
def test_masks_that_cannot_be_used(shapes, spoil, kind, message):
    spoil(shapes)
    splits = open_at(shapes)
    train = splits.train
    with pytest.raises(MaskError, match=message) as error:
        train.mask(1)
    assert error.value.kind == kind
    for use in (train.check, lambda i: segmentation_dataset(train, settings(shapes), train=True)):
        with pytest.raises(ValueError, match=message):
            use(1)
    with pytest.raises(ValueError, match=f"(?s)1 unreadable images: .*{message}"):
        check_images(splits, settings(shapes))
    with pytest.raises(ValueError, match=rf"1 masks cannot be used, the first: .*{message}"):
        segmentation_summary(train, settings(shapes))
    skip = settings(shapes, on_bad_image="skip")
    left = check_images(splits, skip)
    assert (len(left.train), len(left.skipped)) == (4, 1)
    assert segmentation_summary(train, skip).num_images == 4
    assert len(segmentation_dataset(train, skip, train=True)) == 4
    report = scan_segmentation(settings(shapes), workers=0)
    assert [found.kind for found in report.errors] == [kind]
    assert len(report.errors[0].files) == 1


def test_every_mask_unreadable_and_no_list_of_classes(tmp_path):
    root = write_segmentation(tmp_path / "set", 2, 0, names=False)
    for file in (root / "masks" / "train").iterdir():
        file.write_bytes(b"")
    with pytest.raises(MaskError, match=r"train_0000.png: the file is empty.*mask is expected"):
        open_at(root)


def test_every_value_ignored(shapes):
    train = open_at(shapes, ignore_values=(0, 1, 2, 3)).train
    with pytest.raises(MaskError, match=r"value 255 .* \(values none\)"):
        train.mask(0)


def test_mask_that_may_not_be_read(shapes):
    train = open_at(shapes).train
    (shapes / "masks" / "train" / "train_0002.png").unlink()
    with pytest.raises(MaskError, match=r"train_0002\.png: the mask cannot be read"):
        train.mask(2)


def test_a_model_is_not_measured_on_images_without_masks(shapes):
    (shapes / "masks" / "val" / "val_0001.png").unlink()
    with pytest.raises(ValueError, match="1 images of the val split have no mask, the first"):
        open_segmentation_for_evaluation(settings(shapes))
    skip = settings(shapes, on_bad_image="skip")
    assert len(open_segmentation_for_evaluation(skip)[0]) == 2


@pytest.mark.parametrize("turn", [1, 2, 3, 5, 6, 8])
def test_pictures_that_are_turned_upright(tmp_path, turn):
    """The mask belongs to the upright picture; what it fits instead, the message says."""
    root = write_segmentation(tmp_path / "set", 1, 0, size=40)
    image = root / "images" / "train" / "train_0000.png"
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.open(image).resize((50, 40)).save(image, exif=exif)
    upright = (50, 40) if turn < 5 else (40, 50)
    mask = root / "masks" / "train" / "train_0000.png"
    Image.new("L", upright, 1).save(mask)
    train = open_at(root, val_fraction=0).train
    assert train.read(0).size == upright
    assert train.mask(0).shape == upright[::-1]
    Image.new("L", upright[::-1], 1).save(mask)
    message = "once it is turned upright as its EXIF" if turn >= 5 else "export the mask again"
    with pytest.raises(MaskError, match=message):
        train.mask(0)


def test_what_a_set_holds(shapes):
    train = open_at(shapes).train
    found = survey_masks(train)
    for i in range(5):
        mask = train.mask(i)
        assert tuple(found.sizes[i]) == mask.shape
        counts = [(mask == k).sum() for k in (*range(4), IGNORE)]
        assert found.pixels[i].tolist() == counts
    summary = segmentation_summary(train, settings(shapes))
    total = found.pixels.sum(0)
    assert (summary.num_images, summary.num_classes) == (5, 4)
    assert summary.pixels == tuple(total[:4])
    assert summary.ignored == pytest.approx(total[4] / total.sum())
    assert summary.median_short_side == int(np.median(found.sizes.min(1)))
    assert summary.median_long_side == int(np.median(found.sizes.max(1)))


def test_what_a_set_holds_is_read_once(shapes, monkeypatch):
    train = open_at(shapes).train
    first = survey_masks(train)
    with monkeypatch.context() as patch:
        patch.setattr(type(train), "mask", None)
        assert np.array_equal(survey_masks(train).pixels, first.pixels)
    file = replace_mask(shapes, fill(2))
    again = survey_masks(open_at(shapes).train)
    assert again.pixels[1].tolist() == [0, 0, np.array(Image.open(file)).size, 0, 0]
    assert np.array_equal(np.delete(again.pixels, 1, 0), np.delete(first.pixels, 1, 0))
    other = survey_masks(
        open_at(shapes, ignore_values=(2, 255)).train
    )  # another meaning, the same files
    assert other.pixels[1, -1] == again.pixels[1, 2]
    assert cache.load("mask_survey", "nothing") is None


def test_many_masks_are_read_by_processes(tmp_path):
    root = write_segmentation(tmp_path / "set", 70, 1, size=24)
    alone = survey_masks(open_at(root).train, 0)
    for file in (cache.cache_dir() / "mask_survey").iterdir():
        file.unlink()
    assert np.array_equal(survey_masks(open_at(root).train, 2).pixels, alone.pixels)


def test_images_that_are_wholly_ignored_do_not_train(shapes):
    replace_mask(shapes, fill(255))
    splits, config = open_at(shapes), settings(shapes)
    assert len(splits.train) == 5
    train = trained_images(splits.train, config)
    assert [train.key(i)[-8:-4] for i in range(4)] == ["0000", "0002", "0003", "0004"]
    assert segmentation_dataset(splits.train, config, train=True).source.key(1) == train.key(1)
    assert len(segmentation_dataset(splits.train, config, train=False)) == 5
    assert segmentation_summary(splits.train, config).num_images == 4
    with pytest.raises(ValueError, match="no image to train on; every pixel of the 1 masks"):
        trained_images(splits.train.subset(np.array([1])), config)


def kinds(findings):
    return [found.kind for found in findings]


def test_a_sound_set_passes_the_doctor(shapes):
    report = scan_segmentation(settings(shapes), workers=0)
    assert report.ok
    assert not report.warnings
    assert report.classes == SEGMENTS
    assert (report.counts["train images"], report.counts["val images"]) == (5, 3)
    sizes = survey_masks(open_at(shapes).train).sizes, survey_masks(open_at(shapes).val).sizes
    both = np.concatenate(sizes)
    assert report.counts["shortest side"] == both.min()
    assert report.counts["longest side"] == both.max()
    assert (
        report.class_counts["train"]
        == segmentation_summary(open_at(shapes).train, settings(shapes)).pixels
    )


def test_what_the_doctor_finds(shapes, tmp_path):
    broken = shapes / "images" / "train" / "train_0000.png"
    broken.write_bytes(broken.read_bytes()[:100])
    shutil.copy(shapes / "images/train/train_0002.png", shapes / "images/val/val_0001.png")
    shutil.copy(shapes / "masks/train/train_0002.png", shapes / "masks/val/val_0001.png")
    replace_mask(shapes, fill(255), "train_0003")
    shutil.copy(shapes / "masks/train/train_0002.png", shapes / "masks/train/alone.png")
    large = Image.new("RGB", (400, 300), (9, 200, 3))
    large.save(shapes / "images/train/large.png")
    mask = np.zeros((300, 400), np.uint8)
    mask[0, :3] = 4
    Image.fromarray(mask).save(shapes / "masks/train/large.png")
    Image.new("L", (400, 300), 1).save(shapes / "masks/val/wide.jpg")
    large.transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((400, 300)).save(
        shapes / "images/val/wide.png"
    )
    names = [*SEGMENTS, "Background ", "unseen"]
    (shapes / "classes.txt").write_text("\n".join(names))
    said = []
    assert not doctor(str(shapes), workers=0, say=said.append)
    report = scan_segmentation(settings(shapes), workers=0)
    assert kinds(report.errors) == ["unreadable", "duplicate_across_splits"]
    assert "train_0000.png" in report.errors[0].files[0]
    warned = {found.kind: found for found in report.warnings}
    assert warned["lone_mask"].files == ("masks/train/alone.png",)
    assert warned["ignored_mask"].files[0].endswith("masks/train/train_0003.png")
    assert warned["empty_class"].files == ("unseen",)
    assert warned["rare_class"].files[-1].startswith("Background (0.00")
    assert warned["class_not_measured"].files == ("Background",)
    assert "lossy_mask" in warned
    assert "400x300" in warned["size_range"].message
    assert warned["similar_names"].files == ("'background' / 'Background'",)
    assert "masks/train/alone.png" in said[0]


def test_the_doctor_finds_one_class(shapes):
    for file in (shapes / "masks" / "train").iterdir():
        replace_mask(shapes, fill(1), file.stem)
    report = scan_segmentation(settings(shapes), workers=0)
    assert kinds(report.errors) == ["one_class"]
    assert "only 'rectangle' occurs" in report.errors[0].message


def test_the_doctor_finds_numbered_objects(tmp_path):
    root = write_segmentation(tmp_path / "set", 3, 0, names=False)
    random = np.random.RandomState(0)
    for file in (root / "masks" / "train").iterdir():
        numbers = random.randint(0, 150, (8, 8)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(numbers).save(file)
    report = scan_segmentation(settings(root), workers=0)
    assert report.ok
    assert "masks = instances" in next(
        found.message for found in report.warnings if found.kind == "many_values"
    )


def test_the_doctor_says_why_a_set_cannot_be_opened(shapes):
    (shapes / "classes.txt").write_text("a\na\n")
    report = scan_segmentation(settings(shapes), workers=0)
    assert kinds(report.errors) == ["cannot_open"]
    with pytest.raises(ValueError, match="class 'a' is named twice"):
        doctor(str(shapes), workers=0)


def test_real_sets_are_described(real_images):
    config = settings(real_images / "camvid")
    splits = check_images(open_segmentation(config), config)
    summary = segmentation_summary(splits.train, config)
    assert (summary.num_images, summary.num_classes) == (12, 11)
    assert (summary.median_short_side, summary.median_long_side) == (360, 480)
    assert min(summary.pixels) > 0
    assert 0 < summary.ignored < 0.1
    report = scan_segmentation(config, workers=0)
    assert report.ok
    nuclei = settings(real_images / "nuclei", masks="instances")
    splits = check_images(open_segmentation(nuclei), nuclei)
    background, cells = segmentation_summary(splits.train, nuclei).pixels
    assert 0.1 < cells / (background + cells) < 0.3
