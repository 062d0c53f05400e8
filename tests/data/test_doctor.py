"""The check-up finds what was planted, names it, and calls real data sound."""

import json
import shutil

import pytest
from PIL import Image

from convnext.data import DataConfig
from convnext.data.doctor import scan


def kinds(findings):
    return {finding.kind: finding for finding in findings}


def test_a_sound_set(make_folder):
    root = make_folder({f"{split}/{name}": 6 for split in ("train", "val") for name in "ab"})
    report = scan(DataConfig(path=str(root), image_size=64))
    assert report.ok
    assert report.warnings == []
    assert report.counts == {"train": 12, "val": 12}
    assert report.class_counts == {"train": (6, 6), "val": (6, 6)}
    assert "0 errors, 0 warnings" in str(report)


@pytest.mark.parametrize("workers", [1, 2])
def test_everything_that_can_be_wrong(make_folder, picture, workers):
    root = make_folder(
        {
            "train/cat": 60,
            "train/Cat ": 6,
            "train/dog": 3,
            "train/empty": 0,
            "val/cat": 5,
            "val/dog": 3,
            "val/bird": 1,
        }
    )
    train, val = root / "train", root / "val"
    (train / "cat/000.png").write_bytes(b"")
    (val / "dog/001.png").write_bytes((val / "dog/001.png").read_bytes()[:-30])
    shutil.copy(train / "cat/001.png", val / "cat/leak.png")
    shutil.copy(train / "cat/002.png", train / "dog/other label.png")
    shutil.copy(train / "cat/003.png", train / "cat/twice.png")
    large = picture(500, 200, 180)
    large.save(train / "cat/large.png")
    large.resize((170, 153), Image.Resampling.LANCZOS).save(val / "cat/resized.jpg", quality=90)
    picture(501, 12, 12).save(train / "cat/tiny.png")
    picture(502, 900, 40).save(train / "cat/long.png")
    picture(503).save(train / "cat/really a gif.png", "GIF")
    (train / "cat/readme.md").write_text("left out")

    report = scan(DataConfig(path=str(root), image_size=224), workers)
    assert not report.ok
    errors, warnings = kinds(report.errors), kinds(report.warnings)
    assert set(errors) == {
        "empty_class",
        "unknown_class",
        "unreadable",
        "duplicate_across_splits",
        "duplicate_with_other_label",
    }
    assert "'empty'" in errors["empty_class"].message
    assert "'bird'" in errors["unknown_class"].message
    assert len(errors["unreadable"].files) == 2
    assert "0 bytes" in errors["unreadable"].files[0]
    (leak,) = errors["duplicate_across_splits"].files
    assert "001.png (train)" in leak
    assert "leak.png (val)" in leak
    assert "other label.png" in errors["duplicate_with_other_label"].files[0]
    assert set(warnings) == {
        "duplicate",
        "near_duplicate",
        "imbalance",
        "few_images",
        "class_not_measured",
        "similar_names",
        "ignored_files",
        "tiny",
        "extreme_aspect",
        "small_for_input",
        "format_mismatch",
    }
    assert "twice.png" in warnings["duplicate"].files[0]
    (near,) = warnings["near_duplicate"].files
    assert "large.png (train) ~" in near
    assert "resized.jpg" in near
    assert "tiny.png (12x12)" in warnings["tiny"].files[0]
    assert "long.png (900x40)" in warnings["extreme_aspect"].files[0]
    assert "really a gif.png (is GIF)" in warnings["format_mismatch"].files[0]
    assert "'Cat ' / 'cat'" in warnings["similar_names"].files[0]
    assert "1 files were left out" in warnings["ignored_files"].message
    data = json.loads(report.to_json())
    assert data["ok"] is False
    assert {finding["kind"] for finding in data["errors"]} == set(errors)
    text = str(report)
    assert "error: 2 unreadable images" in text
    assert "5 errors" in text


def test_labels_that_contradict_the_folder(make_folder, tmp_path):
    make_folder({"cat": 5, "dog": 5}, name="img")
    rows = [f"img/{name}/{i:03d}.png,{name}" for name in ("cat", "dog") for i in range(5)]
    rows[0] = "img/cat/000.png,dog"
    (tmp_path / "t.csv").write_text("\n".join(["path,label", *rows]))
    report = scan(DataConfig(path=str(tmp_path / "t.csv"), image_size=32))
    (finding,) = [f for f in report.warnings if f.kind == "label_folder_mismatch"]
    assert finding.files == (f"{tmp_path}/img/cat/000.png: labelled 'dog'",)


@pytest.mark.parametrize(
    ("counts", "kind"), [({"a": 5}, "one_class"), (None, "cannot_open"), ({"a": 0}, "cannot_open")]
)
def test_data_that_cannot_be_opened_are_an_error(make_folder, tmp_path, counts, kind):
    path = tmp_path / "gone" if counts is None else make_folder(counts)
    report = scan(DataConfig(path=str(path), image_size=32))
    assert [finding.kind for finding in report.errors] == [kind]
    assert str(path) in report.errors[0].message


def test_progress_is_plain_lines_without_a_terminal(make_folder, capsys, monkeypatch):
    monkeypatch.setattr("convnext.data.scan._LINE_SECONDS", 0.0)
    root = make_folder({"a": 20, "b": 20})
    scan(DataConfig(path=str(root), image_size=32, val_fraction=0.0), workers=1)
    assert capsys.readouterr().err.splitlines() == [
        "reading train images: 32 of 40",
        "reading train images: 40 of 40",
    ]


@pytest.mark.parametrize("name", ["caltech20", "flowers5"])
def test_real_sets_are_sound(real_images, name):
    report = scan(DataConfig(path=str(real_images / name)))
    assert report.ok, str(report)
    assert sum(report.counts.values()) == {"caltech20": 800, "flowers5": 350}[name]
