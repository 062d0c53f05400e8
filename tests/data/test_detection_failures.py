"""Mistakes in COCO sets: one clear message, or the right result; and what the doctor says."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from convnext.data import DetectionDataConfig, TrainBatches, check_images
from convnext.data.detection import (
    detection_dataset,
    is_detection_set,
    open_detection,
    scan_detection,
)
from convnext.run.doctor import doctor
from shapes import annotation, write_coco


@pytest.fixture
def shapes(tmp_path):
    return write_coco(tmp_path / "set", 6, 3, size=64)


def open_at(path, **options):
    return open_detection(DetectionDataConfig(path=str(path), **options))


def edit(root, split, change):
    file = root / "annotations" / f"instances_{split}.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def set_field(key, value, place=0, table="annotations"):
    def change(content):
        if value is None:
            del content[table][place][key]
        else:
            content[table][place][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_field("category_id", 3), r"category that is not.*annotations\[0\].*category_id 3"),
        (set_field("category_id", None), "category_id None"),
        (set_field("image_id", 99), r"image that is not.*annotations\[0\] \(id 1\): image_id 99"),
        (set_field("bbox", [1, 2, 3]), r"annotations\[0\].*bbox \[1, 2, 3\]"),
        (set_field("bbox", None), "bbox None"),
        (set_field("bbox", [1, 2, float("nan"), 4]), "not four finite numbers"),
        (set_field("bbox", ["a", 2, 3, 4]), "not four finite numbers"),
        (set_field("segmentation", [[1, 2]]), "broken mask.*three points"),
        (
            set_field("segmentation", {"size": [64, 64], "counts": [5, 6]}),
            r"val.json: 1 objects with a broken mask.*annotations\[0\].*add up to 64 x 64",
        ),
        (set_field("id", 7, 1, "images"), "number of another image"),
        (set_field("file_name", None, 1, "images"), r"images\[1\] needs a whole number 'id'"),
        (set_field("id", "x", 1, "categories"), r"categories\[1\] needs a whole number 'id'"),
        (set_field("id", 2, 1, "categories"), "two categories have the id 2"),
        (set_field("name", "rectangle", 1, "categories"), "two categories have the name"),
        (lambda content: content.update(images=[]), "list of images is empty"),
        (lambda content: content.update(categories=[]), "list of categories is empty"),
        (lambda content: content.update(images={}), "'images' is no list"),
        (lambda content: content["annotations"].append(5), r"annotations\[\d+\] is 5, not an"),
        (lambda content: content.pop("annotations"), r"lacks the lists \['annotations'\]"),
    ],
)
def test_broken_entries_are_named(shapes, change, message):
    edit(shapes, "val", change)
    with pytest.raises(ValueError, match=f"(?s){message}") as error:
        open_at(shapes)
    assert "instances_val.json" in str(error.value)


def test_no_coco_files(shapes, tmp_path):
    file = shapes / "annotations" / "instances_val.json"
    file.write_text('{"images": [')
    with pytest.raises(ValueError, match=r"instances_val.json: no JSON file"):
        open_at(shapes)
    file.write_text("[1, 2]")
    with pytest.raises(ValueError, match="no COCO file of objects"):
        open_at(shapes)
    with pytest.raises(ValueError, match="no such file or folder"):
        open_at(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no data given"):
        open_at("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no boxes found; looked for COCO \("):
        open_at(tmp_path / "empty")
    first = shapes / "annotations" / "instances_train.json"
    shutil.copy(first, first.with_stem("instances_train2017"))
    with pytest.raises(ValueError, match=r"both instances_train\.json and instances_train2017"):
        open_at(shapes)


def test_only_a_validation_split(shapes):
    (shapes / "annotations" / "instances_train.json").unlink()
    with pytest.raises(ValueError, match="no training images; found only: val"):
        open_at(shapes)


def test_missing_images(shapes):
    gone = sorted((shapes / "train").iterdir())[2]
    gone.unlink()
    splits = open_at(shapes)
    with pytest.raises(ValueError, match=rf"1 unreadable images: .*{gone.name}.*No such file"):
        check_images(splits, DetectionDataConfig(path=str(shapes)))
    config = DetectionDataConfig(path=str(shapes), on_bad_image="skip", min_size=64)
    kept = check_images(splits, config)
    assert (len(kept.train), len(kept.skipped)) == (5, 1)
    assert gone.name not in {kept.train.path(i).name for i in range(5)}
    shutil.rmtree(shapes / "train")
    with pytest.raises(ValueError, match=r"none of its images is there, such as 'train_0000.png'"):
        open_at(shapes)


def test_images_of_another_size_than_annotated(shapes):
    file = sorted((shapes / "train").iterdir())[1]
    Image.new("RGB", (50, 64)).save(file)
    splits = open_at(shapes)
    with pytest.raises(ValueError, match=r"train_0001.png: the image has 50x64 pixels.*64x64"):
        check_images(splits, DetectionDataConfig(path=str(shapes)))
    config = DetectionDataConfig(path=str(shapes), min_size=64)
    batches = TrainBatches(
        detection_dataset(splits.train, config, train=True), batch_size=6, workers=1
    )
    stream = batches.iterate()
    with pytest.raises(ValueError, match=r"train_0001.png: the image has 50x64"):
        next(stream)
    stream.close()


def test_a_class_that_only_validation_has(shapes):
    def only(content):
        content["categories"] = content["categories"][:1]
        content["annotations"] = [e for e in content["annotations"] if e["category_id"] == 2]

    edit(shapes, "train", only)
    with pytest.raises(ValueError, match=r"val split has objects of classes.*lacks: "):
        open_at(shapes)


def test_nothing_to_train_on(shapes):
    edit(shapes, "train", lambda content: content.update(annotations=[]))
    with pytest.raises(ValueError, match="no object in the training images"):
        open_at(shapes)


def test_a_sound_set_has_no_errors(shapes, capsys):
    report = scan_detection(DetectionDataConfig(path=str(shapes)))
    assert report.ok
    assert {found.kind for found in report.warnings} <= {
        "few_objects",
        "empty_class",
        "class_not_measured",
    }
    assert report.counts["train images"] == 6
    assert report.classes == ("rectangle", "ellipse", "triangle")
    assert sum(report.class_counts["train"]) == report.counts["train objects"]
    assert doctor(str(shapes))
    assert "3 classes; train images 6" in capsys.readouterr().out


def kinds(report):
    return {found.kind: found for found in report.errors + report.warnings}


def test_the_doctor_finds_what_is_wrong(shapes, tmp_path):
    mask = np.zeros((64, 64), np.uint8)
    mask[10:20, 10:20] = 1
    good = annotation(mask, 2)

    def spoil(content):
        first, second = (image["id"] for image in content["images"][:2])
        number = 100
        for change in (
            {"bbox": [3, 3, 0, 5], "area": 0},
            {"bbox": [90, 3, 9, 9]},
            {"bbox": [-4, 3, 20, 20]},
            {},
            {},
            {"bbox": [40, 40, 20, 20]},
            {"segmentation": {"size": [64, 64], "counts": [4096]}},
            {"segmentation": {"size": [64, 64], "counts": [96]}},
            {"category_id": 77},
            {"image_id": 12345},
        ):
            number += 1
            entry = good | {"id": number, "image_id": first} | change
            content["annotations"].append(entry)
        content["annotations"] = [e for e in content["annotations"] if e["image_id"] != second]
        content["images"][4]["height"] = 99
        content["categories"].append({"id": 12, "name": "Ellipse"})
        many = good | {"image_id": content["images"][5]["id"], "bbox": [1, 1, 2, 2]}
        content["annotations"] += [many | {"id": 1000 + i} for i in range(120)]

    edit(shapes, "train", spoil)
    names = sorted((shapes / "train").iterdir())
    names[2].unlink()
    names[3].write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    shutil.copy(names[0], sorted((shapes / "val").iterdir())[1])
    report = scan_detection(DetectionDataConfig(path=str(shapes), min_size=64))
    found = kinds(report)
    errors = {item.kind for item in report.errors}
    assert errors == {
        "unknown_category",
        "unknown_image",
        "broken_mask",
        "missing",
        "unreadable",
        "size_mismatch",
        "duplicate_across_splits",
    }
    assert found["missing"].files == (str(names[2]),)
    assert str(names[3]) in found["unreadable"].files[0]
    assert found["size_mismatch"].files == (f"{names[4]}: 64x64, annotated as 64x99",)
    assert found["broken_mask"].files[0].startswith("annotations[")
    assert {
        "degenerate_box",
        "outside_box",
        "clipped_box",
        "duplicate_box",
        "empty_mask",
        "mask_off_box",
        "empty_class",
        "no_object",
        "many_objects",
        "tiny_objects",
        "similar_names",
    } <= found.keys()
    assert str(names[1]) in found["no_object"].files
    assert found["empty_class"].files == ("Ellipse",)
    assert not report.ok
    assert not doctor(str(shapes), json=tmp_path / "report.json", say=lambda _: None)
    assert json.loads((tmp_path / "report.json").read_text())["ok"] is False


def test_the_doctor_of_sets_that_cannot_be_opened(shapes):
    (shapes / "annotations" / "instances_val.json").write_text("{")
    assert is_detection_set(str(shapes))
    with pytest.raises(ValueError, match="no JSON file"):
        doctor(str(shapes))


@pytest.mark.parametrize("name", ["pets3", "coco_mini"])
def test_the_doctor_of_real_sets(real_images, name):
    assert scan_detection(DetectionDataConfig(path=str(real_images / name))).ok
