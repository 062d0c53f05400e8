"""Verdicts on detections and objects, by hand and against the counts of pycocotools."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from detection_cases import noisy
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from convnext.evaluate.coco import CocoMetrics
from convnext.evaluate.detection_errors import find_errors

LEFT, RIGHT = [0, 0, 40, 40], [100, 100, 60, 60]  # x, y, width, height


def truth(*objects, images=(7,), classes=3):
    annotations = [
        {"image_id": image, "category_id": 10 * category, "bbox": box, "iscrowd": crowd}
        for image, category, box, crowd in objects
    ]
    categories = [{"id": 10 * k} for k in range(1, classes + 1)]
    return {
        "images": [{"id": i, "height": 200, "width": 200} for i in images],
        "categories": categories,
        "annotations": annotations,
    }


def said(*rows, image=7):
    return [
        {"image_id": image, "category_id": 10 * category, "bbox": box, "score": score}
        for category, box, score in rows
    ]


def verdicts(ground_truth, results, threshold=0.0):
    errors = find_errors(ground_truth, results, threshold=threshold)
    assert sum(errors.detections.values()) == sum(r["score"] >= threshold for r in results)
    assert sum(errors.objects.values()) == sum(
        not a["iscrowd"] for a in ground_truth["annotations"]
    )
    counts = errors.detections | {f"object {name}": n for name, n in errors.objects.items()}
    return {name: n for name, n in counts.items() if n}, errors


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([(1, LEFT, 0.9)], {"right": 1, "object found": 1}),
        ([], {"object missed": 1}),
        ([(1, RIGHT, 0.9)], {"nothing there": 1, "object missed": 1}),
        ([(2, LEFT, 0.9)], {"wrong class": 1, "object wrong class": 1}),
        ([(1, [20, 0, 40, 40], 0.9)], {"badly placed": 1, "object badly placed": 1}),
        ([(2, [20, 0, 40, 40], 0.9)], {"nothing there": 1, "object missed": 1}),
        ([(1, [35, 35, 40, 40], 0.9)], {"nothing there": 1, "object missed": 1}),
        (
            [(1, LEFT, 0.9), (1, [2, 0, 40, 40], 0.8), (1, LEFT, 0.7)],
            {"right": 1, "duplicate": 2, "object found": 1},
        ),
        ([(1, LEFT, 0.5), (2, LEFT, 0.9)], {"right": 1, "wrong class": 1, "object found": 1}),
        ([(1, [0, 0, 0, 0], 0.5)], {"nothing there": 1, "object missed": 1}),
    ],
)
def test_verdicts_on_one_object(rows, expected):
    counts, errors = verdicts(truth((7, 1, LEFT, 0)), said(*rows))
    assert counts == expected
    assert len(errors.worst) == (set(counts) != {"right", "object found"})


def test_the_surest_detection_takes_the_object_even_with_less_overlap():
    rows = [(1, LEFT, 0.6), (1, [5, 0, 40, 40], 0.7)]
    errors = find_errors(truth((7, 1, LEFT, 0)), said(*rows), threshold=0.0)
    (image,) = errors.worst
    assert image.scores.tolist() == [0.7, 0.6]
    assert image.verdicts == ("right", "duplicate")
    assert image.positions.tolist() == [1, 0]
    assert image.boxes[0].tolist() == [5, 0, 45, 40]
    assert image.num_errors == 1


def test_crowds_excuse_their_class_only():
    ground_truth = truth((7, 1, RIGHT, 1), (7, 2, LEFT, 0))
    inside = [110, 110, 20, 20]
    counts, errors = verdicts(ground_truth, said((1, inside, 0.9), (2, inside, 0.8)))
    assert counts == {"in a crowd": 1, "nothing there": 1, "object missed": 1}
    assert errors.precision == 0
    assert errors.worst[0].true_positions.tolist() == [1]
    alone = find_errors(truth((7, 1, RIGHT, 1)), said((1, inside, 0.9)))
    assert (alone.precision, alone.recall, alone.worst) == (None, None, ())


def test_confused_classes_are_counted_in_order():
    ground_truth = truth((7, 1, LEFT, 0), (7, 2, RIGHT, 0), (8, 1, LEFT, 0), images=(7, 8))
    results = said((3, LEFT, 0.9), (1, RIGHT, 0.8)) + said((3, LEFT, 0.9), image=8)
    _, errors = verdicts(ground_truth, results)
    assert errors.confused == ((0, 2, 2), (1, 0, 1))
    assert [image.image_id for image in errors.worst] == [7, 8]
    assert [image.num_errors for image in errors.worst] == [4, 2]
    assert errors.to_json()["worst"] == [[7, 4], [8, 2]]
    assert json.loads(json.dumps(errors.to_json())) == errors.to_json()


def test_the_threshold_is_where_f1_is_best():
    ground_truth = truth((7, 1, LEFT, 0), (7, 1, RIGHT, 0))
    rows = [(1, LEFT, 0.9), (1, RIGHT, 0.4), (1, [150, 0, 9, 9], 0.3), (1, [160, 0, 9, 9], 0.2)]
    errors = find_errors(ground_truth, said(*rows))
    assert errors.threshold == 0.4
    assert errors.precision == errors.recall == 1
    # Equal scores stand or fall together, though one of those at .9 alone would be worth having.
    rows = [(1, LEFT, 0.95), (1, RIGHT, 0.9)] + [(1, [9 * k, 150, 9, 9], 0.9) for k in range(6)]
    assert find_errors(ground_truth, said(*rows)).threshold == 0.95
    assert find_errors(ground_truth, said(*rows[2:])).threshold == 0.5
    assert find_errors(ground_truth, []).threshold == 0.5
    assert find_errors(truth(), said((1, LEFT, 0.9))).detections["nothing there"] == 1


def test_an_empty_set():
    errors = find_errors(truth(images=()), [])
    assert set(errors.detections.values()) == set(errors.objects.values()) == {0}


def test_right_detections_are_those_that_pycocotools_counts(real_images):
    path = real_images / "coco_mini" / "annotations" / "instances_val.json"
    ground_truth = json.loads(path.read_text())
    metrics = CocoMetrics(
        ground_truth, [c["name"] for c in ground_truth["categories"]], masks=False
    )
    for image, boxes, scores, labels, _ in noisy(ground_truth, masks=False):
        metrics.update(image, *(torch.from_numpy(a) for a in (boxes, scores, labels)))
    result = metrics.compute()
    errors = find_errors(ground_truth, result.results, threshold=0.0)
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO(str(path))
        run = COCOeval(known, known.loadRes(result.results), "bbox")
        run.params.iouThrs = np.array([0.5])
        run.params.areaRng = [[0, 1e10]]
        run.evaluate()
    cells = [cell for cell in run.evalImgs if cell]
    matched = [cell["dtMatches"][0] > 0 for cell in cells]
    ignored = [cell["dtIgnore"][0] for cell in cells]
    right = sum(int((m & ~i).sum()) for m, i in zip(matched, ignored, strict=True))
    in_crowds = sum(int(i.sum()) for i in ignored)
    assert errors.detections["right"] == errors.objects["found"] == right > 100
    assert errors.detections["in a crowd"] == in_crowds
    best = find_errors(ground_truth, result.results)
    assert best.threshold > 0.05
    assert best.precision > errors.precision
    assert len(best.worst) == 24
    numbers = [image.num_errors for image in best.worst]
    assert numbers == sorted(numbers, reverse=True)
