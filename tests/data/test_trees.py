"""The photographs of trees: tiles that cover everything, boxes where the trees are."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from convnext.data.config import DetectionDataConfig
from convnext.data.detection import deepforest, open_detection
from convnext.data.detection.deepforest import write_trees


def test_without_the_package_the_message_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr(deepforest, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install --no-deps deepforest"):
        write_trees(tmp_path / "trees")
    assert not (tmp_path / "trees").exists()


@pytest.mark.skipif(find_spec("deepforest") is None, reason="the package deepforest is not here")
def test_tiles_and_boxes(tmp_path):
    folder = write_trees(tmp_path / "trees")
    splits = open_detection(DetectionDataConfig(path=str(folder)))
    assert {name: len(part) for name, part in splits.named().items()} == {
        "train": 42,
        "val": 12,
        "test": 1,
    }
    assert splits.classes == ("tree",)
    assert splits.test.num_objects().sum() == 61  # all trees of the whole photograph
    assert splits.train.num_objects().sum() >= 574  # tiles overlap a little
    stamp = (folder / "annotations" / "instances_train.json").stat().st_mtime_ns
    assert write_trees(folder) == folder
    assert (folder / "annotations" / "instances_train.json").stat().st_mtime_ns == stamp


def test_a_tree_belongs_to_the_tiles_that_hold_half_of_it(tmp_path):
    picture = Image.fromarray(np.zeros((400, 700, 3), np.uint8))
    boxes = np.array([[10.0, 10, 50, 60], [380, 20, 440, 60], [295, 300, 305, 320]])
    found = deepforest._tiles(picture, boxes, tmp_path)
    assert [image["width"] for image in found["images"]] == [400, 400]  # at 0 and at 300
    kept = [(a["image_id"], a["bbox"]) for a in found["annotations"]]
    assert kept == [
        (1, [10.0, 10.0, 40.0, 50.0]),
        (1, [295.0, 300.0, 10.0, 20.0]),
        (2, [80.0, 20.0, 60.0, 40.0]),
        (2, [0.0, 300.0, 5.0, 20.0]),
    ]
    json.dumps(found)
