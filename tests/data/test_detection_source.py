"""COCO sets: reading, splits, and the ground truth given back, against pycocotools."""

import contextlib
import io
import json
import pickle
import shutil

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from convnext.data import DetectionDataConfig, check_images
from convnext.data.detection import (
    detection_dataset,
    detection_summary,
    is_detection_set,
    layout,
    open_detection,
    open_detection_for_evaluation,
    stored,
    trained_images,
)
from shapes import CATEGORY_IDS, CLASSES, write_coco


@pytest.fixture
def shapes(tmp_path):
    return write_coco(tmp_path / "set", 6, 3, size=64, vary=True)


def open_at(path, **options):
    return open_detection(DetectionDataConfig(path=str(path), **options))


def edit(root, split, change):
    file = root / "annotations" / f"instances_{split}.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_shapes(shapes):
    splits = open_at(shapes)
    assert splits.classes == CLASSES
    assert (len(splits.train), len(splits.val), splits.test) == (6, 3, None)
    truth = json.loads((shapes / "annotations" / "instances_val.json").read_text())
    val = splits.val
    assert val.category_ids == CATEGORY_IDS
    assert val.has_masks
    for i, image in enumerate(truth["images"]):
        assert val.image_id(i) == image["id"]
        assert val.size(i) == (image["height"], image["width"])
        assert val.read(i).size == (image["width"], image["height"])
        own = [entry for entry in truth["annotations"] if entry["image_id"] == image["id"]]
        objects = val.objects(i)
        assert objects.labels.tolist() == [CATEGORY_IDS.index(e["category_id"]) for e in own]
        x, y, w, h = np.array([entry["bbox"] for entry in own]).T
        assert np.array_equal(objects.boxes, np.stack([x, y, x + w, y + h], axis=1))
        assert objects.rles == [entry["segmentation"]["counts"].encode() for entry in own]
        assert objects.trains.all()
    assert is_detection_set(str(shapes))


def quiet(function, *arguments):
    with contextlib.redirect_stdout(io.StringIO()):
        return function(*arguments)


def scores(truth, results, kind):
    evaluation = COCOeval(truth, truth.loadRes(results), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats


def noisy(truth):
    """Every object found, a little beside itself."""
    random = np.random.RandomState(0)
    results = []
    for entry in truth["annotations"]:
        box = (np.array(entry["bbox"]) * random.uniform(0.8, 1.2, 4)).tolist()
        found = {key: entry[key] for key in ("image_id", "category_id")}
        results.append(found | {"bbox": box, "score": float(random.rand())})
    return results


def test_ground_truth_comes_back_as_pycocotools_reads_it(real_images):
    """The same scores to the last digit, crowds and non-contiguous ids included."""
    file = real_images / "coco_mini" / "annotations" / "instances_val.json"
    val = open_at(real_images / "coco_mini").val
    classes = open_at(real_images / "coco_mini").classes
    theirs, mine = quiet(COCO, str(file)), COCO()
    mine.dataset = val.to_coco(classes)
    quiet(mine.createIndex)
    assert mine.cats.keys() == theirs.cats.keys()
    assert mine.anns.keys() == theirs.anns.keys()
    results = noisy(theirs.dataset)
    assert np.array_equal(
        quiet(scores, mine, results, "bbox"), quiet(scores, theirs, results, "bbox")
    )
    crowds = sum(entry["iscrowd"] for entry in theirs.dataset["annotations"])
    assert sum(val.objects(i).crowd.sum() for i in range(len(val))) == crowds > 0
    assert not any((val.objects(i).crowd & val.objects(i).trains).any() for i in range(len(val)))


@pytest.mark.parametrize("name", ["coco_mini", "nuclei"])
def test_real_sets(real_images, name):
    splits = open_at(real_images / name)
    sizes = {"coco_mini": (50, 30, 443, 288), "nuclei": (110, 35, 4484, 1736)}[name]
    found = len(splits.train), len(splits.val)
    objects = splits.train.num_objects().sum(), splits.val.num_objects().sum()
    assert (*found, *objects) == sizes
    assert splits.train.has_masks
    config = DetectionDataConfig(path=str(real_images / name))
    assert check_images(splits, config) == splits  # every image is of the annotated size
    summary = detection_summary(splits.train, config)
    assert summary.num_objects == splits.train.num_objects(trains=True).sum()
    assert summary.median_short_side <= summary.median_long_side
    assert summary.small_object < summary.large_object < summary.median_long_side


def test_subsets_and_copies_keep_their_objects(shapes):
    train = open_at(shapes).train
    part = pickle.loads(pickle.dumps(train.subset(np.array([4, 1]))))  # noqa: S301
    assert part.key(0) == train.key(4)
    for mine, whole in ((0, 4), (1, 1)):
        assert part.image_id(mine) == train.image_id(whole)
        assert part.shapes[mine] == train.shapes[whole]
        assert np.array_equal(part.objects(mine).boxes, train.objects(whole).boxes)
        assert part.objects(mine).rles == train.objects(whole).rles
    assert part.num_objects().tolist() == [len(train.objects(4)), len(train.objects(1))]
    assert part.class_counts(3).sum() == part.num_objects(trains=True).sum()
    assert {image["id"] for image in part.to_coco(CLASSES)["images"]} == {17, 47}


def test_unfit_objects_do_not_train_but_count(shapes):
    odd = [[3, 3, 0, 5], [3, 3, 0.5, 5], [200, 3, 9, 9], [-9, -9, 5, 5], [-3, 2, 9, 9]]

    def add(content):
        image = content["images"][0]["id"]
        for box in odd:
            content["annotations"].append(
                {"id": 1000 + len(content["annotations"]), "image_id": image, "category_id": 2}
                | {"bbox": box, "area": box[2] * box[3], "iscrowd": 0}
                | {"segmentation": [[0, 0, 9, 0, 9, 9]]}
            )

    edit(shapes, "train", add)
    train = open_at(shapes).train
    objects = train.objects(0)
    assert objects.trains[-5:].tolist() == [False, False, False, False, True]
    truth = train.to_coco(CLASSES)["annotations"]
    assert [entry["bbox"] for entry in truth if entry["id"] >= 1000] == odd
    summary = detection_summary(train, DetectionDataConfig(path=str(shapes)))
    assert summary.num_objects == train.num_objects().sum() - 4


def test_the_summary_is_of_what_trains(shapes):
    """One image has no object, one is narrow; an image of a crowd alone trains."""

    def change(content):
        first, second, third = (image["id"] for image in content["images"][:3])
        content["images"][1]["width"] = 31
        content["annotations"] = [e for e in content["annotations"] if e["image_id"] != first]
        for entry in content["annotations"]:
            if entry["image_id"] == second:
                entry["bbox"] = [0, 0, 30, 30]
            entry["iscrowd"] = int(entry["image_id"] == third)

    edit(shapes, "train", change)
    train = open_at(shapes, masks=False).train
    for negatives, rows in ((False, [2, 3, 4, 5]), (True, [0, 2, 3, 4, 5])):
        config = DetectionDataConfig(path=str(shapes), negatives=negatives)
        part = trained_images(train, config)
        seen = detection_dataset(train, config, train=True).source
        names = [train.key(row) for row in rows]
        assert [source.key(i) for source in (part, seen) for i in range(len(source))] == 2 * names
        summary = detection_summary(train, config)
        assert summary.num_images == len(rows)
        counts = train.num_objects(trains=True)[3:]
        assert (summary.num_objects, summary.most_objects) == (counts.sum(), counts.max())
        boxes = np.concatenate([train.objects(row).boxes for row in (3, 4, 5)])
        sides = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
        percentiles = summary.small_object, summary.large_object
        assert percentiles == pytest.approx(tuple(np.percentile(sides, [20, 95])), rel=1e-5)
        with pytest.raises(ValueError, match="no object to train on"):
            detection_summary(train.subset(np.array([2])), config)


def test_images_without_objects_stay_for_evaluation(shapes):
    def clear(content):
        first = content["images"][0]["id"]
        content["annotations"] = [e for e in content["annotations"] if e["image_id"] != first]

    edit(shapes, "val", clear)
    val = open_at(shapes).val
    assert len(val) == 3
    assert len(val.objects(0)) == 0
    assert val.objects(0).boxes.shape == (0, 4)
    assert len(val.to_coco(CLASSES)["images"]) == 3


def test_a_missing_validation_split_is_held_out(shapes):
    (shapes / "annotations" / "instances_val.json").unlink()
    first, again = (open_at(shapes, val_fraction=0.34) for _ in range(2))
    assert (len(first.train), len(first.val)) == (4, 2)
    assert [first.val.key(i) for i in range(2)] == [again.val.key(i) for i in range(2)]
    assert open_at(shapes, val_fraction=0).val is None


def test_one_file_alone(shapes):
    splits = open_at(shapes / "annotations" / "instances_train.json")
    assert (len(splits.train), len(splits.val)) == (5, 1)
    source, classes, split = open_detection_for_evaluation(
        DetectionDataConfig(path=str(shapes / "annotations" / "instances_val.json"))
    )
    assert (len(source), classes, split) == (3, CLASSES, "all")


def roboflow(root, shapes):
    for split, name in (("train", "train"), ("val", "valid")):
        shutil.copytree(shapes / split, root / name)
        file = root / name / "_annotations.coco.json"
        shutil.copy(shapes / "annotations" / f"instances_{split}.json", file)


def flat(root, shapes):
    shutil.copytree(shapes, root)
    for split in ("train", "val"):
        file = root / "annotations" / f"instances_{split}.json"
        file.rename(root / f"instances_{split}.json")
    (root / "annotations").rmdir()


def official(root, shapes):
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        shutil.copytree(shapes / split, root / "images" / f"{split}2017")
        file = root / "annotations" / f"instances_{split}2017.json"
        shutil.copy(shapes / "annotations" / f"instances_{split}.json", file)
        (root / "annotations" / f"captions_{split}2017.json").write_text("{}")


@pytest.mark.parametrize("arrange", [roboflow, flat, official])
def test_layouts(shapes, tmp_path, arrange):
    arrange(tmp_path / "other", shapes)
    assert is_detection_set(str(tmp_path / "other"))
    splits = open_at(tmp_path / "other")
    assert (len(splits.train), len(splits.val)) == (6, 3)
    splits.val.read(2)


def test_single_file_beside_its_images(shapes, tmp_path):
    root = tmp_path / "single"
    shutil.copytree(shapes / "train", root / "images")
    shutil.copy(shapes / "annotations" / "instances_train.json", root / "labels.json")
    (root / "package.json").write_text("{}")
    assert len(open_at(root, val_fraction=0).train) == 6


def test_file_names_with_folders_of_another_machine(shapes):
    def rename(content):
        for image in content["images"]:
            image["file_name"] = "C:\\data\\pictures\\" + image["file_name"]

    edit(shapes, "train", rename)
    open_at(shapes).train.read(0)


def test_classes_are_matched_by_name(shapes):
    """The other split may number them otherwise, and list fewer."""

    def swap(content):
        content["categories"] = [
            {"id": 5, "name": "triangle"},
            {"id": 7, "name": "rectangle"},
            {"id": 8, "name": "ellipse"},
        ]
        new = {2: 7, 5: 8, 9: 5}
        for entry in content["annotations"]:
            entry["category_id"] = new[entry["category_id"]]

    before = open_at(shapes).val
    edit(shapes, "val", swap)
    after = open_at(shapes).val
    for i in range(3):
        assert np.array_equal(before.objects(i).labels, after.objects(i).labels)
    assert after.to_coco(CLASSES) == before.to_coco(CLASSES)


def test_classes_of_a_model(shapes):
    config = DetectionDataConfig(path=str(shapes))
    names = ("dog", "triangle", "ellipse", "rectangle")
    source, classes, split = open_detection_for_evaluation(config, classes=names)
    plain, own, _ = open_detection_for_evaluation(config)
    assert (classes, own, split) == (names, CLASSES, "val")
    for i in range(len(source)):
        mine = [names[k] for k in source.objects(i).labels]
        assert mine == [CLASSES[k] for k in plain.objects(i).labels]
    truth = source.to_coco(names)
    assert [entry["name"] for entry in sorted(truth["categories"], key=lambda e: e["id"])] == list(
        names
    )
    with pytest.raises(ValueError, match=r"'rectangle'.*not among the 2 classes of the model"):
        open_detection_for_evaluation(config, classes=("ellipse", "triangle"))
    with pytest.raises(ValueError, match="no split 'test'; found: train, val"):
        open_detection_for_evaluation(config, "test")


def test_boxes_without_masks(shapes, tmp_path):
    plain = write_coco(tmp_path / "plain", 2, 1, size=64, masks=False)
    assert not open_at(plain).train.has_masks
    assert open_at(plain).train.objects(0).rles is None
    assert not open_at(shapes, masks=False).train.has_masks

    def strip(content):
        content["annotations"][0]["segmentation"] = []

    edit(shapes, "val", strip)  # one object without a mask: none of the splits has masks
    splits = open_at(shapes)
    assert not splits.train.has_masks
    assert not splits.val.has_masks
    assert "segmentation" not in splits.val.to_coco(CLASSES)["annotations"][0]


def test_ids_that_pycocotools_cannot_use_are_replaced(shapes):
    def zero(content):
        for i, entry in enumerate(content["annotations"]):
            entry["id"] = i  # 0 means "no match" there

    edit(shapes, "val", zero)
    truth = open_at(shapes).val.to_coco(CLASSES)["annotations"]
    assert [entry["id"] for entry in truth] == list(range(1, len(truth) + 1))


def test_what_took_long_to_read_is_kept(shapes, monkeypatch, tmp_path):
    monkeypatch.setenv("CONVNEXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(stored, "_LONG", -1)
    first = open_at(shapes)
    plain = open_at(shapes, masks=False)
    with monkeypatch.context() as patch:
        patch.setattr(layout, "read_coco", None)  # nothing is read again
        again = open_at(shapes)
        assert not open_at(shapes, masks=False).train.has_masks
    assert not plain.train.has_masks
    assert again.train.name(3) == first.train.name(3)
    assert again.val.to_coco(CLASSES) == first.val.to_coco(CLASSES)
    for file in (tmp_path / "cache" / "detection").iterdir():
        file.write_bytes(file.read_bytes()[:-100])
    assert open_at(shapes).val.to_coco(CLASSES) == first.val.to_coco(CLASSES)
    edit(shapes, "val", lambda content: content["annotations"].pop())
    assert open_at(shapes).val.num_objects().sum() == first.val.num_objects().sum() - 1


def test_other_files_among_the_annotations(shapes, make_folder):
    (shapes / "annotations" / "classes.json").write_text('["rectangle"]')
    for split in ("train", "val"):
        file = shapes / "annotations" / f"instances_{split}.json"
        file.rename(shapes / "annotations" / f"{split}.json")
    assert len(open_at(shapes).val) == 3
    folder = make_folder({"train/cat": 2, "train/dog": 2}, "pets")
    (folder / "annotations" / "odd.json").mkdir(parents=True)
    (folder / "annotations" / "classes.json").write_text('["cat", "dog"]')
    assert not is_detection_set(str(folder))


def test_what_contradicts_itself_is_a_detection_set_with_a_message(shapes, tmp_path):
    (shapes / "annotations" / "instances_val2017.json").write_text("{}")
    (tmp_path / "yolo").mkdir()
    (tmp_path / "yolo" / "data.yaml").write_text("[")
    for folder in (shapes, tmp_path / "yolo"):
        assert is_detection_set(str(folder))
        with pytest.raises(ValueError, match=r"instances_val2017|data\.yaml"):
            open_at(folder)
    assert not is_detection_set("~nobody_of_this_name/set")
    assert not is_detection_set("long" * 1000)


def test_other_sets_are_not_taken_for_detection(tmp_path, make_folder, real_images):
    assert not is_detection_set(str(make_folder({"images": 2, "labels": 2})))
    assert not is_detection_set(str(make_folder({"train/cat": 2, "train/dog": 2}, "b")))
    assert not is_detection_set(str(tmp_path / "nothing"))
    for name in ("caltech20", "camvid", "coco_panoptic", "odd_images"):
        assert not is_detection_set(str(real_images / name))
