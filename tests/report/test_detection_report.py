"""The report of a detector: its numbers, its pictures, and nothing loaded from anywhere."""

import io
import re

import numpy as np
import pytest
import torch
from PIL import Image
from test_html import Page, assert_self_contained

from convnext.evaluate.coco import CocoMetrics
from convnext.evaluate.coco_masks import encode_masks
from convnext.evaluate.detection_errors import find_errors
from convnext.report.curves import curves
from convnext.report.data import ReportData
from convnext.report.detection_example import detection_example
from convnext.report.html import render

SIDE = 100


def rectangle(x1, y1, x2, y2):
    mask = np.zeros((1, SIDE, SIDE), bool)
    mask[0, y1:y2, x1:x2] = True
    return encode_masks(mask)[0]


def scored(names, *, masks=True, num_images=4, skip=0):
    """Squares of every class in every image; the network finds most, and doubles some."""
    random = np.random.default_rng(0)
    annotations, said = [], []
    for image in range(1, num_images + 1):
        rows = []
        for label in range(len(names)):
            x, y = (int(v) for v in random.integers(0, 60, 2))
            box = [x, y, x + 30, y + 30]
            annotations.append(
                {"image_id": image, "category_id": label, "bbox": [x, y, 30, 30], "iscrowd": 0}
                | {"segmentation": rectangle(*box)}
            )
            if random.random() < 0.7:
                rows.append((label, 0.5 + 0.4 * random.random(), box))
            if random.random() < 0.3:
                rows.append(((label + 1) % len(names), 0.3, box))
        said.append((image, rows))
    truth = {
        "images": [{"id": i, "height": SIDE, "width": SIDE} for i in range(1, num_images + 1)],
        "categories": [{"id": k} for k in range(len(names))],
        "annotations": annotations,
    }
    metrics = CocoMetrics(truth, names, masks=masks)
    for image, rows in said[skip:]:
        boxes = torch.tensor([row[2] for row in rows]).float().reshape(-1, 4)
        scores = torch.tensor([row[1] for row in rows])
        labels = torch.tensor([row[0] for row in rows], dtype=torch.int64)
        metrics.update(image, boxes, scores, labels, [rectangle(*row[2]) for row in rows])
    return truth, metrics.compute()


def history(*, masks=True, cascade=False):
    lines = []
    for step in (10, 20, 30):
        parts = {"loss_rpn_cls": 0.1, "loss_rpn_bbox": 0.2}
        for prefix in ("s0.", "s1.", "s2.") if cascade else ("",):
            parts |= {f"{prefix}loss_cls": 3 / step, f"{prefix}loss_bbox": 2 / step}
        lines.append({"kind": "train", "step": step, "loss": 9 / step, "lr": 1e-3} | parts)
    for step, ap in ((10, 20.0), (20, 31.5), (30, 30.0)):
        line = {"kind": "eval", "step": step, "ap": ap, "ap50": ap + 9, "weights": "model"}
        lines.append(line | ({"mask_ap": ap - 2} if masks else {}))
    return lines


def report_of(names, *, masks=True):
    truth, result = scored(names, masks=masks)
    errors = find_errors(truth, result.results, num_worst=2)
    examples = [
        detection_example(
            Image.new("RGB", (SIDE, SIDE)),
            image,
            names,
            name=f"images/{image.image_id}.png",
            annotations=truth["annotations"] if masks else None,
            mask_results=result.mask_results,
        )
        for image in errors.worst
    ]
    return ReportData(
        **{"title": "Squares", "created": "today", "split": "test", "history": history()},
        **{"detection": result, "errors": errors, "detections": examples},
    )


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("num_classes", [1, 2, 8, 30])
def test_report_of_a_detector_is_one_valid_file(num_classes, masks):
    data = report_of([f"class {i}" for i in range(num_classes)], masks=masks)
    text = render(data)
    page = Page(text)
    assert_self_contained(text, page)
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert [v[1:] for _, name, v in page.attributes if name == "href"] == ids
    assert ids[:5] == ["curves", "precision", "objects", "errors", "detections"]
    assert page.counts["img"] == 2 * len(data.detections) > 0
    panels = 4 + 1 + masks + (1 < num_classes <= 8)
    assert text.count('class="chart"') == panels
    assert text.count('class="spark"') == num_classes


def test_report_holds_the_numbers_of_the_result():
    data = report_of(["cat", "dog", "newt"])
    result, errors, text = data.detection, data.errors, Page(render(data)).text
    for expected in (
        f"{result.box.AP:.1f} box AP (test) mean over IoU .50 to .95 and 3 classes",
        f"IoU .50 {result.box.AP50:.1f} {result.mask.AP50:.1f}",
        f"small, < 32² px {result.box.APs:.1f} {result.mask.APs:.1f}",
        f"With detections of score {errors.threshold:.2f} or more, {errors.objects['found']} of "
        f"the 12 objects are found ({100 * errors.recall:.1f} %), and "
        f"{100 * errors.precision:.1f} % of the detections are right",
        "gives the best balance (F1) here",
        f"Mask AP {result.mask.AP:.1f}",
        f"AR {result.box.AR100:.1f}",
        f"Objects 12 3 classes Detections {result.num_detections}",
        "all evaluated",
        f"missed {errors.objects['missed']}",
        f"right {errors.detections['right']}",
        "best 31.5",
        "images/1.png",
    ):
        assert expected in text, expected
    for score in result.per_class:
        row = (score.box.AP, score.box.AP50, score.box.AP75, score.box.AR100)
        shown = " ".join(f"{v:.1f}" for v in (*row, score.mask.AP, score.mask.AP50))
        assert f"{score.name} {score.num_objects} {score.num_detections} {shown}" in text
    assert "medium" not in text  # there is no such object
    assert "in a crowd" not in text


def test_sets_without_objects_or_detections_say_so():
    truth = {"images": [{"id": 1, "height": 9, "width": 9}], "categories": [{"id": 1}]}
    empty = CocoMetrics(truth | {"annotations": []}, ["a"], masks=False).compute()
    page = Page(render(ReportData(title="t", created="c", detection=empty)))
    assert "– box AP (validation)" in page.text
    assert "The 1 images hold no objects" in page.text
    assert "a 0 0 – – – –" in page.text
    assert [v for _, name, v in page.attributes if name == "id"] == ["objects"]
    annotation = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}
    silent = CocoMetrics(truth | {"annotations": [annotation]}, ["a"], masks=False).compute()
    errors = find_errors(truth | {"annotations": [annotation]}, silent.results)
    data = ReportData(title="t", created="c", detection=silent, errors=errors)
    text = Page(render(data)).text
    assert "0.0 box AP" in text
    assert "The network detects nothing at all." in text
    assert "1 not seen" in text


def test_hostile_names_stay_text():
    names = ["<b>bold</b>", "美洲豹", "'><script>alert(1)</script>", "x" * 300, "a\x00b\udcff"]
    data = report_of(names)
    text = render(data)
    page = Page(text)
    text.encode("utf-8")
    assert page.counts["script"] == 1
    assert "b" in page.counts
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    for name in names[:3]:
        assert name in page.text


def test_losses_of_a_cascade_are_added_up_over_its_stages():
    one, three = curves(history()), curves(history(cascade=True))
    for drawn in (one, three):
        assert "Parts of the loss" in drawn
        assert "proposals, objectness" in drawn
        assert "Top-1" not in drawn
        assert drawn.count("<figure>") == 4
    assert "nats" not in one
    tops = []
    for drawn in (one, three):
        panel = drawn.split("<figure>")[2]
        tops.append(max(map(float, re.findall(r'text-anchor="end">([\d.]+)<', panel))))
    assert tops[1] > 2 * tops[0]
    assert 'class="line c-mask"' in one
    assert 'class="line c-mask"' not in curves(history(masks=False))


def test_an_example_shows_objects_and_detections():
    truth, result = scored(["cat", "dog"])
    image = find_errors(truth, result.results).worst[0]
    wide = Image.new("RGB", (SIDE, SIDE), (90, 90, 90))
    example = detection_example(wide, image, ["cat", "dog"], name="x.png")
    with Image.open(io.BytesIO(example.truth)) as one, Image.open(io.BytesIO(example.said)) as two:
        assert one.size == two.size == (500, 500)
        assert one.format == two.format == "JPEG"
    lost = sum(verdict != "found" for verdict in image.true_verdicts)
    assert example.errors["missed"] <= lost <= image.num_errors
    # Of a large picture a smaller one is shown, with its masks.
    big = detection_example(
        Image.new("RGB", (2000, 1000)),
        find_errors(*large()).worst[0],
        ["cat"],
        name="big.png",
        annotations=large()[0]["annotations"],
        mask_results=[],
    )
    with Image.open(io.BytesIO(big.truth)) as one:
        assert one.size == (640, 320)
        assert one.getpixel((320, 160))[0] > 20  # the veil of the missed object
        assert one.getpixel((20, 300))[0] < 10
    assert big.errors == {"missed": 1}


def large():
    polygon = [[800.0, 400.0, 1200.0, 400.0, 1200.0, 600.0, 800.0, 600.0]]
    annotation = {"image_id": 1, "category_id": 1, "bbox": [800, 400, 400, 200]}
    return {
        "images": [{"id": 1, "height": 1000, "width": 2000}],
        "categories": [{"id": 1}],
        "annotations": [annotation | {"segmentation": polygon}],
    }, []
