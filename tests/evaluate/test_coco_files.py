"""Files of detections: read back by pycocotools to the last digit, and as tables."""

import csv
import io
import json

import numpy as np
import pytest
from detection_cases import found, made, noisy, reference, scored
from pycocotools.coco import COCO

from convnext.evaluate.coco_files import CsvDetections, JsonDetections, write_results
from convnext.evaluate.coco_masks import encode_masks

BOXES = np.array([[1.25, 2, 11.25, 22], [0, 0, 3, 3]], np.float32)
SCORES, LABELS = np.array([0.75, 0.5], np.float32), np.array([1, 0])


def rles():
    masks = np.zeros((2, 30, 20), bool)
    masks[0, 2:22, 2:10] = masks[1, :3, :3] = True
    return encode_masks(masks)


def test_a_written_evaluation_scores_the_same_from_its_files(tmp_path):
    boxes = [(1, 3, 5, 5, 45, 65), (2, 8, 10, 20, 90, 80), (2, 3, 0, 0, 30, 9)]
    truth = made(boxes=boxes, images=2, categories=(3, 8))
    result = scored(truth, noisy(truth, seed=4, extra=1))
    paths = write_results(result, tmp_path)
    assert [path.name for path in paths] == ["detections_bbox.json", "detections_segm.json"]
    assert sorted(tmp_path.iterdir()) == paths
    truth_file = tmp_path / "truth.json"
    truth_file.write_text(json.dumps(truth))
    for path, kind, ap in zip(paths, ("bbox", "segm"), (result.box, result.mask), strict=True):
        assert reference(str(truth_file), str(path), kind)[0] == ap.AP
    assert result.num_detections == len(json.loads(paths[0].read_text())) > 3


def test_boxes_only_and_none_at_all(tmp_path):
    result = scored(made(boxes=[]), [found(1)], masks=False)
    (path,) = write_results(result, tmp_path)
    assert json.loads(path.read_text()) == []
    with pytest.raises(FileNotFoundError):
        write_results(result, tmp_path / "missing")


def test_json_of_predictions(capsys):
    file = io.StringIO()
    writer = JsonDetections(file, ["Katze", "犬"])
    writer.add("a.jpg", 1, BOXES, SCORES, LABELS, rles())
    writer.add("empty.jpg", 2, np.zeros((0, 4)), [], [])
    writer.add("b.jpg", 3, BOXES[:1], SCORES[:1], LABELS[:1])
    writer.close()
    first, second, third = json.loads(file.getvalue())
    assert {k: v for k, v in first.items() if k != "segmentation"} == {
        **{"image_id": 1, "file_name": "a.jpg", "category_id": 2, "category": "犬"},
        **{"bbox": [1.25, 2.0, 10.0, 20.0], "score": 0.75, "area": 160.0},
    }
    assert first["segmentation"]["size"] == [30, 20]
    assert (second["category_id"], second["area"]) == (1, 9.0)
    assert (third["image_id"], "segmentation" in third) == (3, False)
    truth = COCO()
    truth.dataset = {"images": [{"id": i} for i in (1, 2, 3)], "categories": [{"id": 1}, {"id": 2}]}
    truth.createIndex()
    truth.loadRes([first, second])
    capsys.readouterr()

    nothing = io.StringIO()
    JsonDetections(nothing, ["x"]).close()
    assert json.loads(nothing.getvalue()) == []
    other = io.StringIO()
    writer = JsonDetections(other, ["x", "y"], category_ids=(44, 17))
    writer.add("a.jpg", 1, BOXES, SCORES, LABELS)
    writer.close()
    assert [entry["category_id"] for entry in json.loads(other.getvalue())] == [17, 44]


def test_table_of_predictions():
    file = io.StringIO(newline="")
    table = CsvDetections(file, ["cat, big", 'dog "small"'])
    table.add("a.jpg", BOXES, SCORES, LABELS)
    table.add("masks.jpg", BOXES, SCORES, LABELS, rles())
    table.add("empty.jpg", np.zeros((0, 4)), [], [])
    table.unreadable("broken.jpg", "broken.jpg: damaged image")
    rows = list(csv.DictReader(io.StringIO(file.getvalue(), newline="")))
    assert [row["file"] for row in rows] == ["a.jpg"] * 2 + ["masks.jpg"] * 2 + ["broken.jpg"]
    assert rows[0] == {
        **{"file": "a.jpg", "label": 'dog "small"', "score": "0.750000", "error": ""},
        **{"x1": "1.25", "y1": "2.00", "x2": "11.25", "y2": "22.00", "area": "200.00"},
    }
    assert [row["area"] for row in rows] == ["200.00", "9.00", "160.00", "9.00", ""]
    assert rows[-1]["error"] == "broken.jpg: damaged image"
