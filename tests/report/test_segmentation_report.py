"""The report of a segmenter: its numbers, its pictures, and nothing loaded from anywhere."""

import io
import re

import numpy as np
import pytest
from PIL import Image
from test_html import Page, assert_self_contained

from convnext.evaluate.segmentation import SegmentationMetrics
from convnext.report.curves import curves
from convnext.report.data import ReportData
from convnext.report.html import render
from convnext.report.overlay import palette
from convnext.report.segmentation_example import segmentation_example


def scored(names, *, num_images=3, size=(24, 32), wrong=0.3):
    """Blocks of classes; of each image some rows are called the next class."""
    random = np.random.default_rng(0)
    metrics, maps = SegmentationMetrics(names), []
    for image in range(num_images):
        blocks = random.integers(0, len(names), (size[0] // 4, size[1] // 4))
        truth = np.kron(blocks, np.ones((4, 4), int)).astype(np.int16)
        said = truth.astype(np.int64)
        said[: int(wrong * size[0]) + image] = (said[0, 0] + 1) % len(names)
        truth[-3:] = -1
        metrics.update(said, truth, image)
        maps.append((truth, said))
    return maps, metrics.compute()


def history(*, auxiliary=True):
    lines = []
    for step in (10, 20, 30):
        line = {"kind": "train", "step": step, "loss": 3 / step, "lr": 1e-3}
        line["decode.loss_seg"] = 2 / step
        lines.append(line | ({"aux.loss_seg": 1 / step} if auxiliary else {}))
    for step, miou in ((10, 20.0), (20, 31.5), (30, 30.0)):
        scores = {"miou": miou, "mean_accuracy": miou + 5, "pixel_accuracy": 70.0 + step}
        lines.append({"kind": "eval", "step": step, "weights": "model"} | scores)
    return lines


def report_of(names, **changes):
    maps, result = scored(names, **changes)
    examples = [
        segmentation_example(
            Image.new("RGB", maps[image.index][0].shape[::-1]),
            *maps[image.index],
            names,
            name=f"images/{image.index}.png",
        )
        for image in result.worst(2)
    ]
    return ReportData(
        **{"title": "Blocks", "created": "today", "split": "test", "history": history()},
        **{"segmentation": result, "segments": examples},
    )


@pytest.mark.parametrize("num_classes", [1, 2, 12, 150])
def test_report_of_a_segmenter_is_one_valid_file(num_classes):
    data = report_of([f"class {i}" for i in range(num_classes)])
    text = render(data)
    page = Page(text)
    assert_self_contained(text, page)
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert [v[1:] for _, name, v in page.attributes if name == "href"] == ids
    confusion = ["confusion"] * (num_classes > 1)
    assert ids == ["curves", "regions", *confusion, "segments"]
    assert page.counts["img"] == 3 * 2
    assert text.count('class="chart"') == 4
    assert ("Confusion matrix of" in text) == (1 < num_classes <= 100)
    assert ("and 1" in page.text or "more" in page.text) == (num_classes > 16)


def test_report_holds_the_numbers_of_the_result():
    data = report_of(["cat", "dog", "newt", "owl", "nothing"], wrong=0.5)
    result, text = data.segmentation, Page(render(data)).text
    share = 100 * max(result.pixels) / result.num_pixels
    for expected in (
        f"{result.miou:.1f} mIoU (test) mean over 5 classes, %",
        f"pixels right {result.pixel_accuracy:.1f}",
        f"mean accuracy {result.mean_accuracy:.1f}",
        f"mean Dice {result.mean_dice:.1f}",
        f"IoU, weighted by pixels {result.frequency_weighted_iou:.1f}",
        f"{result.pixel_accuracy:.1f} % of the pixels are right; always saying",
        f"would be right for {share:.1f} %",
        "Hardest by IoU:",
        f"Ignored {100 * 3 / 24:.1f} %",
        "best 31.5",
        f"images/{result.worst(1)[0].index}.png",
        f"mIoU {result.worst(1)[0].miou:.1f} %",
        "Most confused pairs true class taken for pixels % of class",
    ):
        assert expected in text, expected
    columns = (result.iou, result.dice, result.accuracy, result.pixels, result.said)
    rows = zip(result.class_names, *columns, strict=True)
    for name, iou, dice, accuracy, pixels, said in rows:
        shown = f"{iou:.1f} {dice:.1f} {accuracy:.1f} {pixels:,} "
        shares = [100 * n / result.num_pixels for n in (pixels, said)]
        assert f"{name} {shown}{shares[0]:.2f} {shares[1]:.2f}" in text
    order = [
        text.index(f" {name} {iou:.1f} ")
        for iou, name in sorted(zip(result.iou, result.class_names, strict=True))
    ]
    assert order == sorted(order)


def test_cells_of_the_matrix_hold_percent():
    data = report_of(["a", "b", "c"])
    text = render(data)
    matrix = data.segmentation.confusion
    cells = re.findall(r'class="count[^"]*"[^>]*>([^<]*)<', text)
    shares = (100 * matrix / matrix.sum(axis=1, keepdims=True)).ravel()
    assert cells == [f"{share:.0f}" for share in shares if share]
    assert f"a → b: {matrix[0, 1]:,} (" in text


def test_classes_that_are_nowhere_and_images_that_do_not_count():
    metrics = SegmentationMetrics(["there", "nowhere"])
    metrics.update(np.zeros((4, 4), int), np.zeros((4, 4), int), 0)
    page = Page(render(ReportData(title="t", created="c", segmentation=metrics.compute())))
    assert "100.0 mIoU (validation) mean over 1 class, %" in page.text
    assert "nowhere – – – 0 0.00 0.00" in page.text
    assert "1 without a pixel" in page.text
    metrics = SegmentationMetrics(["a"])
    metrics.update(np.zeros((4, 4), int), np.full((4, 4), -1), 0)
    page = Page(render(ReportData(title="t", created="c", segmentation=metrics.compute())))
    assert "– mIoU" in page.text
    assert "No pixel of the 1 images counts." in page.text


def test_classes_without_pixels_come_after_the_hardest():
    metrics = SegmentationMetrics(["easy", "hard", "said", "nowhere", "middle", "never said"])
    truth = np.repeat([0, 1, 4, 5], 12).reshape(4, 12)
    said = np.where(truth == 5, 0, truth)
    said[1, :9] = 2
    said[2, :3] = 0
    metrics.update(said, truth, 0)
    page = Page(render(ReportData(title="t", created="c", segmentation=metrics.compute())))
    names = [value for _, name, value in page.attributes if name == "data-value"]
    order = [value for value in names if value.isalpha() or " " in value]
    assert order[:6] == ["never said", "hard", "easy", "middle", "said", "nowhere"]
    assert "Hardest by IoU: never said (0.0), hard (25.0), easy (44.4)." in page.text


def test_hostile_names_stay_text():
    names = ["<b>bold</b>", "美洲豹", "'><script>alert(1)</script>", "x" * 300, "a\x00b\udcff"]
    text = render(report_of(names))
    page = Page(text)
    text.encode("utf-8")
    assert page.counts["script"] == 1
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    for name in names[:3]:
        assert name in page.text


def test_more_classes_than_a_table_shows():
    text = Page(render(report_of([f"c{i}" for i in range(1001)]))).text
    assert "The 1,000 classes with the lowest IoU of 1,001" in text


def test_curves_of_parts_and_scores():
    drawn = curves(history())
    for words in ("Parts of the loss", "main head", "auxiliary head", "mIoU", "best 31.5"):
        assert words in drawn
    assert "nats" not in drawn
    assert "Top-1" not in drawn
    assert "Parts of the loss" not in curves(history(auxiliary=False))


def test_an_example_shows_picture_truth_and_prediction():
    truth = np.full((100, 200), -1, np.int16)
    truth[:50, :100] = 1
    said = np.ones((100, 200), np.int64)
    said[:25] = 2
    picture = Image.new("L", (200, 100), 90)
    example = segmentation_example(picture, truth, said, ["a", "b", "c"], name="x.png")
    assert example.classes == [
        ("b", tuple(palette(3)[1].tolist()), 50.0),
        ("c", tuple(palette(3)[2].tolist()), 0.0),
    ]
    assert (example.miou, example.accuracy) == (25.0, 50.0)
    pixels = []
    for image in (example.picture, example.truth, example.said):
        with Image.open(io.BytesIO(image)) as opened:
            assert opened.format == "JPEG"
            assert opened.size == (400, 200)
            pixels.append(np.asarray(opened).astype(int))
    assert np.abs(pixels[0] - 90).max() < 4
    mixed = [90 + 0.6 * (palette(3)[k].astype(float) - 90) for k in (1, 2)]
    assert np.abs(pixels[1][20, 20] - mixed[0]).max() < 12
    assert np.abs(pixels[2][20, 20] - mixed[1]).max() < 12
    assert np.ptp(pixels[1][150, 300]) < 12  # grey
    nothing = segmentation_example(picture, np.full_like(truth, -1), said, ["a", "b", "c"], name="")
    assert (nothing.miou, nothing.accuracy, nothing.classes) == (None, None, [])


def test_a_large_picture_is_shown_smaller():
    truth = np.zeros((1000, 3000), np.uint8)
    truth[:, 1500:] = 1
    example = segmentation_example(
        Image.new("RGB", (3000, 1000)), truth, truth, ["a", "b"], name="big.png"
    )
    with Image.open(io.BytesIO(example.truth)) as image:
        assert image.size == (560, 187)
        left, right = image.getpixel((200, 90)), image.getpixel((360, 90))
    assert abs(left[0] - 0.6 * palette(2)[0][0]) < 12
    assert abs(right[2] - 0.6 * palette(2)[1][2]) < 12
    with pytest.raises(ValueError, match=r"big\.png: a prediction of"):
        segmentation_example(
            Image.new("RGB", (3000, 1000)), truth, truth[1:], ["a", "b"], name="big.png"
        )
