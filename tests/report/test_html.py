"""The report is one safe, self-contained page that holds the numbers of the result."""

import re
import resource
import signal
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from convnext.evaluate.classification import ClassificationMetrics
from convnext.report.data import Example, ReportData, thumbnail
from convnext.report.html import render, write_report

VOID = {"meta", "img"}


class Page(HTMLParser):
    """Checks nesting; collects every attribute, the text a reader sees, and counts of tags."""

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.words, self.counts = [], [], [], {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):  # <rect/> and the like
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).replace("\u202f", " ").split())


def result_of(names, *, num_images=240, skill=2.0):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, len(names), (num_images,), generator=generator)
    logits = torch.randn(num_images, len(names), generator=generator)
    logits[torch.arange(num_images), labels] += skill
    metrics = ClassificationMetrics(len(names), names)
    metrics.update(logits, labels, torch.arange(num_images))
    return metrics.compute()


def picture(shade):
    return thumbnail(Image.fromarray(np.full((20, 30), shade, dtype=np.uint8)))


def history():
    lines = []
    for step in range(10, 110, 10):
        lines.append({"kind": "train", "step": step, "loss": 2.0 / step, "lr": 4e-3 / step})
    for weights, bonus in (("model", 0.0), ("ema", 3.0)):
        lines.append({"kind": "eval", "step": 50, "loss": 1.1, "top1": 60.0, "weights": weights})
        top1 = 70.25 + bonus
        lines.append({"kind": "eval", "step": 100, "loss": 0.9, "top1": top1, "weights": weights})
    return lines


def full_report(names):
    result = result_of(names)
    examples = [
        Example(
            name=f"val/{names[e.label]}/{e.index}.jpg",
            true=names[e.label],
            pred=names[e.pred],
            confidence=e.confidence,
            image=picture(90),
            cam=picture(160),
        )
        for e in (*result.worst[:4], *result.correct[:2])
    ]
    return ReportData(
        title="Cats and others",
        created="1 November 2026",
        result=result,
        split="test",
        description="A small network was trained for 3 epochs.",
        history=history(),
        mistakes=examples[:4],
        correct=examples[4:],
        facts={"Device": "CPU, 2 cores", "Seed": "17"},
        command="convnext train --data cats --out run",
        cost={
            **{"params": 3_374_242, "macs": 549_312_000, "input_shape": [3, 224, 224]},
            **{"images_per_second": 43.21, "batch_size": 32, "train_seconds": 452.7},
            **{"peak_memory": 1_342_177_280, "device": "CPU"},
        },
        recipe={"name": "small", "optim": {"lr": 0.004, "betas": (0.9, 0.999), "clip_grad": None}},
        versions={"convnext": "0.1.0", "torch": "2.14.1"},
    )


def assert_self_contained(text, page):
    """Nothing is loaded from anywhere: only anchors of this page and data in it."""
    for tag, name, value in page.attributes:
        if name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
            assert value.startswith(("#", "data:image/")), (tag, name, value)
    assert not re.search(r"https?://|@import|url\(", text)
    assert not {"link", "iframe", "object", "embed", "base", "form"} & set(page.counts)


@pytest.mark.parametrize("num_classes", [2, 5, 12, 45, 100, 130])
def test_report_is_one_valid_file_without_external_references(num_classes):
    names = [f"class {i}" for i in range(num_classes)]
    text = render(full_report(names))
    page = Page(text)
    assert_self_contained(text, page)
    ids = [value for _, name, value in page.attributes if name == "id"]
    links = [value[1:] for _, name, value in page.attributes if name == "href"]
    assert links == ids
    assert page.counts["img"] == 12  # six examples, each with its map


def test_report_holds_the_numbers_of_the_result():
    data = full_report(["cat", "dog", "newt"])
    result, text = data.result, Page(render(data)).text
    right = round(result.top1 * result.num_images / 100)
    for expected in (
        f"{result.top1:.1f} % top-1 accuracy (test)",
        f"95 % interval {result.top1_interval[0]:.1f} to {result.top1_interval[1]:.1f}",
        f"Of 240 images (test), {right} were named correctly",
        f"would be right for {result.majority_top1:.1f} %",
        "points above that",
        f"Balanced accuracy {result.balanced_accuracy:.1f} %",
        f"Macro F1 {result.macro_f1:.3f}",
        f"differ by {100 * result.ece:.1f} points",
        f"T = {result.temperature.temperature:.2f}",
        f"from {100 * result.temperature.ece_before:.1f} to "
        f"{100 * result.temperature.ece_after:.1f} points",
        "A small network was trained for 3 epochs.",
        "best 73.2",
        "3.37 M",
        "549 M at 3 × 224 × 224",
        "43.2 images/s, batches of 32",
        "7 min 33 s",
        "1.34 GB",
        "Seed 17",
        "convnext train --data cats --out run",
        "lr 0.004 betas 0.9, 0.999 clip_grad none",
        "torch 2.14.1",
    ):
        assert expected in text
    for score in result.per_class:
        row = (score.count, score.predicted, score.precision, score.recall, score.f1)
        shown = " ".join(str(v) if isinstance(v, int) else f"{100 * v:.1f}" for v in row)
        assert f"{score.name} {shown}" in text
    for true, pred, count in result.confusion_pairs.tolist():
        assert f"{data.result.class_names[true]} → {data.result.class_names[pred]}: {count}" in text


def test_two_classes_show_ranking_scores():
    data = ReportData(title="t", created="c", result=result_of(["functional", "defective"]))
    text = Page(render(data)).text
    assert f"ROC AUC {data.result.roc_auc:.3f} positive: defective" in text
    assert f"Average precision {data.result.average_precision:.3f}" in text


def test_a_network_that_beats_nothing_is_called_so():
    data = ReportData(title="t", created="c", result=result_of(["a", "b"], skill=0.0))
    text = Page(render(data)).text
    assert "not clearly better" in text or "below" in text


def test_beyond_a_hundred_classes_pairs_replace_the_matrix():
    text = render(full_report([f"class {i}" for i in range(101)]))
    assert "Confusion matrix of" not in text
    assert "Most confused pairs" in text
    assert "Confusion matrix of 100 classes" in render(full_report([f"c{i}" for i in range(100)]))


def test_hostile_names_stay_text():
    names = ["<b>bold</b>", "美洲豹", "'><script>alert(1)</script>", "x" * 300, "a\x00b\udcff"]
    result = result_of(names)
    examples = [
        Example(
            name=name, true=name, pred=names[0], confidence=0.5, image=picture(9), cam=picture(9)
        )
        for name in ('<img src="http://x/y.png">', '" onerror="alert(1)', *names)
    ]
    data = ReportData(
        **{"title": "</title><h1>x", "created": "<i>", "split": "<u>", "result": result},
        **{"description": "<p>", "command": "a && b <c>", "mistakes": examples},
        **{"facts": {"<a>": "<b>"}, "recipe": {"<k>": {"<l>": "<m>"}}, "versions": {"<v>": "<w>"}},
        cost={"<cost>": "<of>"},
    )
    text = render(data)
    page = Page(text)
    text.encode("utf-8")
    assert page.counts["script"] == 1
    assert page.counts["h1"] == 1
    assert not {"i", "u", "a\x00b"} & set(page.counts)
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    assert all(v.startswith("data:image/jpeg") for _, name, v in page.attributes if name == "src")
    for name in names[:3]:
        assert name in page.text


def test_missing_parts_leave_no_empty_section():
    bare = Page(render(ReportData(title="Nothing yet", created="today")))
    assert "section" not in bare.counts
    assert "Nothing yet today" in bare.text

    evaluation = Page(render(ReportData(title="t", created="c", result=result_of(["a", "b", "c"]))))
    headings = [v for _, name, v in evaluation.attributes if name == "id"]
    assert headings == ["confusion", "calibration"]

    training = Page(render(ReportData(title="t", created="c", history=history()[:1])))
    assert [v for _, name, v in training.attributes if name == "id"] == ["curves"]


def test_one_image_in_one_of_three_classes():
    metrics = ClassificationMetrics(3)
    metrics.update(torch.eye(3)[:1], torch.tensor([0]), torch.tensor([0]))
    page = Page(render(ReportData(title="t", created="c", result=metrics.compute())))
    assert "0 1 1 100.0 100.0 100.0" in page.text
    assert "2 0 0 – – –" in page.text


def test_write_is_whole_or_not_at_all(tmp_path):
    path = tmp_path / "report.html"
    data = full_report(["a", "b"])
    write_report(data, path)
    assert path.read_text(encoding="utf-8") == render(data)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError):
        write_report(data, tmp_path / "missing" / "report.html")

    # A process that may write only 1 kB stands for a full disk.
    code = (
        "import pathlib, sys\n"
        "from convnext.report.data import ReportData\n"
        "from convnext.report.html import write_report\n"
        "try: write_report(ReportData(title='x', created='y'), pathlib.Path(sys.argv[1]))\n"
        "except OSError as error: print(type(error).__name__)\n"
    )

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))

    done = subprocess.run(
        [sys.executable, "-B", "-c", code, str(path)],
        **{"preexec_fn": limit, "capture_output": True, "text": True, "timeout": 60},
        check=True,
    )
    assert done.stdout.strip() == "OSError"
    assert path.read_text(encoding="utf-8") == render(data)
    assert list(tmp_path.iterdir()) == [path]


def test_the_report_needs_no_torch():
    code = "import sys, convnext.report.html; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "False"


def test_real_photographs_make_a_small_gallery(real_images, tmp_path):
    files = sorted((real_images / "odd_images").glob("*.*"))
    files = [file for file in files if file.suffix.lower() in (".jpg", ".png")]
    examples = []
    for file in files:
        with Image.open(file) as image:
            small = thumbnail(image)
        examples.append(Example(name=file.name, true="a", pred="b", confidence=0.9, image=small))
    path = tmp_path / "report.html"
    write_report(ReportData(title="t", created="c", mistakes=examples), path)
    assert len(files) > 0
    assert Page(path.read_text(encoding="utf-8")).counts["img"] == len(files)
    assert path.stat().st_size < 40_000 * (len(files) + 1)
