"""Pascal VOC and YOLO data."""

import shutil

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from convnext.data import DetectionDataConfig, check_images
from convnext.data.detection import is_detection_set, open_detection
from convnext.data.detection.splits import read_parts
from convnext.data.detection.yolo import label_file
from shapes import CLASSES, write_coco


def open_at(path, **options):
    return open_detection(DetectionDataConfig(path=str(path), **options))


def warnings_at(path):
    parts = read_parts(DetectionDataConfig(path=str(path)))
    return {found.kind: found for part in parts.values() for found in part.warnings}


OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>
<xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"""


def voc_object(name, *corners, difficult=0):
    return OBJECT.format(*corners, name=name, difficult=difficult)


def write_xml(file, objects, size=(50, 40)):
    width, height = size
    stated = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    text = f"<annotation><filename>{file.stem}.png</filename>{stated}{''.join(objects)}"
    file.write_text(f"{text}</annotation>", encoding="utf-8")


@pytest.fixture
def voc(tmp_path, picture):
    """Five images of 50 x 40, numbered; image 4 has no object."""
    root = tmp_path / "voc"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for i in range(5):
        picture(i, 50, 40).save(root / "JPEGImages" / f"{i}.png")
        objects = [
            voc_object("wheel", 1, 1, 50, 40),
            voc_object("axle", 11, 11, 20, 15, difficult=i % 2),
        ]
        write_xml(root / "Annotations" / f"{i}.xml", objects if i < 4 else [])
    return root


def lists(root, **splits):
    for name, stems in splits.items():
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text("".join(f"{s}\n" for s in stems))


def test_voc(voc):
    lists(voc, train=[0, 2, 4], val=["1"], trainval=[0, 1, 2, 4], test=[3], wheel_train=["0 1"])
    assert is_detection_set(str(voc))
    splits = open_at(voc)
    assert splits.classes == ("axle", "wheel")
    sizes = {name: len(source) for name, source in splits.named().items()}
    assert sizes == {"train": 3, "val": 1, "test": 1}
    objects = splits.train.objects(0)
    # Corners count from 1 and lie inside: 1..50 is the whole width.
    assert objects.boxes.tolist() == [[0, 0, 50, 40], [10, 10, 20, 15]]
    assert objects.area.tolist() == [2000, 50]
    assert objects.labels.tolist() == [1, 0]
    assert splits.val.objects(0).crowd.tolist() == [False, True]  # difficult: not counted
    assert splits.val.objects(0).trains.tolist() == [True, False]
    assert len(splits.train.objects(2)) == 0
    assert not splits.train.has_masks
    truth = splits.train.to_coco(splits.classes)
    assert [category["id"] for category in truth["categories"]] == [1, 2]
    assert [entry["id"] for entry in truth["annotations"]] == [1, 2, 3, 4]
    assert "difficult" in warnings_at(voc)


def test_voc_without_lists(voc):
    splits = open_at(voc, val_fraction=0.4)
    assert (len(splits.train), len(splits.val)) == (3, 2)
    Image.new("RGB", (50, 40)).save(voc / "JPEGImages" / "new.png")
    assert warnings_at(voc)["not_listed"].files == ("new.png",)
    assert len(open_at(voc, val_fraction=0).train) == 5


def test_voc_trainval(voc):
    lists(voc, trainval=[0, 1, 2], test=[3])
    splits = open_at(voc, val_fraction=0)
    assert (len(splits.train), len(splits.test)) == (3, 1)


def test_voc_beside_the_images_and_in_folders_of_splits(voc, tmp_path):
    for split in ("train", "valid"):
        folder = tmp_path / "export" / split
        shutil.copytree(voc / "JPEGImages", folder)
        shutil.copytree(voc / "Annotations", folder, dirs_exist_ok=True)
    splits = open_at(tmp_path / "export")
    assert (len(splits.train), len(splits.val)) == (5, 5)
    assert len(open_at(tmp_path / "export" / "train", val_fraction=0).train) == 5


def test_voc_sizes_are_those_of_the_files(voc):
    """Sizes in XML files are often 0 or wrong."""
    write_xml(voc / "Annotations" / "0.xml", [voc_object("axle", 1, 1, 9, 9)], size=(0, 0))
    write_xml(voc / "Annotations" / "1.xml", [voc_object("axle", 1, 1, 9, 9)], size=(99, 99))
    source = open_at(voc, val_fraction=0).train
    assert source.size(0) == source.size(1) == (40, 50)
    source.read(1)


def test_voc_mistakes(voc):
    file = voc / "Annotations" / "2.xml"
    write_xml(file, [voc_object("axle", 5, 5, 5, 5), voc_object("axle", 60, 5, 70, 9)])
    found = warnings_at(voc)
    assert found["degenerate_box"].files == ("2.xml: 'axle': box 4 4 0 0, image 50x40",)
    assert found["outside_box"].files == ("2.xml: 'axle': box 59 4 11 5, image 50x40",)
    write_xml(file, [voc_object("axle", "a", 5, 5, 5)])
    with pytest.raises(ValueError, match=r"1 objects whose box.*2.xml: object 'axle' lacks"):
        open_at(voc)
    write_xml(file, [voc_object("", 1, 5, 5, 5)])
    with pytest.raises(ValueError, match=r"2.xml: an object without a name"):
        open_at(voc)
    file.write_text("<annotation>")
    with pytest.raises(ValueError, match=r"2.xml: no readable XML"):
        open_at(voc)
    file.unlink()
    lists(voc, train=[0, 2], val=[1])
    with pytest.raises(ValueError, match=r"1 images without an annotation file, the first: 2:"):
        open_at(voc)
    lists(voc, train=[0], val=[1, 3])
    write_xml(voc / "Annotations" / "3.xml", [voc_object("door", 1, 1, 9, 9)])
    with pytest.raises(ValueError, match=r"val split has objects of classes.*lacks: 'door'"):
        open_at(voc)


@pytest.mark.parametrize(
    ("name", "counts", "classes"),
    [
        ("bccd", (205, 87, 2804, 1137), ("Platelets", "RBC", "WBC")),
        ("pets3", (30, 12, 31, 12), ("cat", "dog")),
    ],
)
def test_real_voc_sets(real_images, name, counts, classes):
    splits = open_at(real_images / name)
    found = [len(splits.train), len(splits.val)]
    found += [int(splits.train.num_objects().sum()), int(splits.val.num_objects().sum())]
    assert tuple(found) == counts
    assert splits.classes == classes
    boxes = splits.train.objects(0).boxes
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    if name == "bccd":  # each split holds one box of a single pixel
        assert len(warnings_at(real_images / name)["degenerate_box"].files) == 1
    else:
        config = DetectionDataConfig(path=str(real_images / name))
        assert check_images(splits, config) == splits


def yolo_line(label, box, height, width):
    x, y, w, h = box
    return f"{label} {(x + w / 2) / width} {(y + h / 2) / height} {w / width} {h / height}\n"


@pytest.fixture
def yolo(tmp_path):
    """The boxes of a COCO set, as YOLO text in images/ and labels/."""
    coco = write_coco(tmp_path / "coco", 4, 2, size=64, vary=True)
    root = tmp_path / "yolo"
    splits = open_at(coco)
    for name, source in splits.named().items():
        for kind in ("images", "labels"):
            (root / kind / name).mkdir(parents=True)
        for i in range(len(source)):
            shutil.copy(source.path(i), root / "images" / name)
            objects, (height, width) = source.objects(i), source.size(i)
            boxes = np.concatenate([objects.boxes[:, :2], objects.boxes[:, 2:]], axis=1)
            lines = []
            for (x1, y1, x2, y2), label in zip(boxes.tolist(), objects.labels, strict=True):
                lines.append(yolo_line(label, (x1, y1, x2 - x1, y2 - y1), height, width))
            (root / "labels" / name / f"{source.path(i).stem}.txt").write_text("".join(lines))
    (root / "data.yaml").write_text(
        f"train: images/train\nval: images/val\ntest: nowhere\nnames: {list(CLASSES)}\n"
    )
    return root, splits


def check_same(splits, wanted):
    assert splits.classes == CLASSES
    for name, source in wanted.named().items():
        mine = splits.named()[name]
        assert len(mine) == len(source)
        for i in range(len(source)):
            assert mine.size(i) == source.size(i)
            assert np.allclose(mine.objects(i).boxes, source.objects(i).boxes, atol=1e-3)
            assert np.array_equal(mine.objects(i).labels, source.objects(i).labels)


def test_yolo_with_description(yolo):
    root, wanted = yolo
    assert is_detection_set(str(root))
    check_same(open_at(root), wanted)
    check_same(open_at(root / "data.yaml"), wanted)
    names = "".join(f"  {i}: {name}\n" for i, name in enumerate(CLASSES))
    (root / "data.yaml").write_text(
        f"path: {root}\ntrain: [images/train]\nvalid: images/val\nnames:\n{names}"
    )
    check_same(open_at(root), wanted)


def test_yolo_without_description(yolo):
    root, wanted = yolo
    (root / "data.yaml").unlink()
    with pytest.raises(ValueError, match=r"have no names; write them into .*classes\.txt"):
        open_at(root)
    (root / "classes.txt").write_text("\n".join(CLASSES))
    check_same(open_at(root), wanted)


def test_yolo_as_exported(yolo, tmp_path):
    """train/images beside train/labels, described as ../train/images; and lists of images."""
    root, wanted = yolo
    other = tmp_path / "export"
    for split, name in (("train", "train"), ("val", "valid")):
        shutil.copytree(root / "images" / split, other / name / "images")
        shutil.copytree(root / "labels" / split, other / name / "labels")
    (other / "classes.txt").write_text("\n".join(CLASSES))
    check_same(open_at(other), wanted)
    text = f"train: ../train/images\nval: ../valid/images\nnc: 3\nnames: {list(CLASSES)}\n"
    (other / "data.yaml").write_text(text)
    check_same(open_at(other), wanted)
    for split in ("train", "val"):
        files = sorted((root / "images" / split).iterdir())
        lines = [f"./images/{split}/{file.name}\n" for file in files]
        (root / f"{split}.txt").write_text("".join(lines))
    (root / "data.yaml").write_text(f"train: train.txt\nval: val.txt\nnames: {list(CLASSES)}\n")
    check_same(open_at(root), wanted)


def test_yolo_polygons_and_backgrounds(yolo):
    root, _ = yolo
    labels = sorted((root / "labels").rglob("*.txt"))
    for file in labels:
        file.write_text("2 0.25 0.25 0.75 0.25 0.75 0.5 0.25 0.5\n\n")
    labels[0].unlink()
    labels[1].write_text("")
    splits = open_at(root)
    assert splits.train.has_masks
    counts = splits.train.num_objects().tolist() + splits.val.num_objects().tolist()
    assert counts == [0, 0, 1, 1, 1, 1]
    objects, (height, width) = splits.val.objects(0), splits.val.size(0)
    shares = objects.boxes[0] / np.array([width, height, width, height])
    assert shares.tolist() == pytest.approx([0.25, 0.25, 0.75, 0.5])
    assert objects.area[0] == pytest.approx(width * height / 8)
    mask = {"size": [height, width], "counts": objects.rles[0]}
    assert coco_mask.area(mask) == pytest.approx(width * height / 8, rel=0.1)
    assert len(warnings_at(root)["no_label_file"].files) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("3 .5 .5 .1 .1", r"line 1: class 3, there are 3 \(0\.\.2\)"),
        ("-1 .5 .5 .1 .1", "class -1"),
        ("0.5 .5 .5 .1 .1", r"class 0\.5"),
        ("0 .5 .5 .1", "4 numbers; a box has 5"),
        ("0 .5 .5 .1 .1 .9 .9 .9", "8 numbers"),
        ("rectangle .5 .5 .1 .1", "no row of numbers"),
        ("0 30 40 10 10", "shares of the image's size"),
        ("0 nan .5 .1 .1", "shares of the image's size"),
    ],
)
def test_yolo_mistakes(yolo, line, message):
    root, _ = yolo
    next((root / "labels" / "val").iterdir()).write_text(line)
    with pytest.raises(ValueError, match=rf"{message}.*convnext doctor"):
        open_at(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: nowhere\nval: images/val\nnames: [a, b, c]", "train images 'nowhere' are not"),
        ("train: images/train\nnames: {0: a, 2: b}", r"not numbered 0\.\.1"),
        ("train: images/train\nnames: 3", "neither a list nor a mapping"),
        ("train: [\nnames: 3", "data.yaml: no readable YAML"),
        ("train: labels\nnames: [a, b, c]", "no images found"),
    ],
)
def test_yolo_descriptions_that_are_wrong(yolo, text, message):
    root, _ = yolo
    (root / "data.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        open_at(root)


def test_label_files(tmp_path):
    assert label_file(tmp_path / "images" / "a" / "images" / "b.c.jpg") == (
        tmp_path / "images" / "a" / "labels" / "b.c.txt"
    )
    assert label_file(tmp_path / "x.jpg") == tmp_path / "x.txt"
