"""Predicting files: awkward names, unreadable files, tables, Grad-CAM pictures."""

import csv
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from convnext.cli import main


@pytest.fixture
def mixed(tmp_path, images):
    """Three good files (one with a Chinese name, one in a subfolder) and three bad ones."""
    folder = tmp_path / "mixed"
    (folder / "unter ordner").mkdir(parents=True)
    shutil.copy(images / "val" / "red" / "0.png", folder / "红色.png")
    shutil.copy(images / "val" / "blue" / "0.png", folder / "unter ordner" / "a,b.png")
    with Image.open(images / "val" / "green" / "0.png") as image:
        image.convert("CMYK").save(folder / "cmyk.jpg")
    (folder / "text.jpg").write_text("this is no image")
    (folder / "empty.png").touch()
    whole = (images / "val" / "red" / "1.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    return folder


def test_bad_files_are_listed_and_the_others_done(run, mixed, tmp_path, capsys):
    table, lines = tmp_path / "out.csv", tmp_path / "out.jsonl"
    arguments = ["predict", str(run), str(mixed), "--csv", str(table), "--json", str(lines)]
    assert main([*arguments, "--topk", "2", "--batch-size", "2", "--workers", "0"]) == 1
    with table.open(encoding="utf-8", newline="") as file:
        rows = {row["file"].rsplit("/", 1)[1]: row for row in csv.DictReader(file)}
    assert rows.keys() == {"红色.png", "a,b.png", "cmyk.jpg", "text.jpg", "empty.png", "cut.png"}
    assert rows["红色.png"]["label_1"] == "red"
    assert rows["a,b.png"]["label_1"] == "blue"
    assert float(rows["红色.png"]["confidence_1"]) > float(rows["红色.png"]["confidence_2"])
    bad = {name for name, row in rows.items() if row["error"]}
    assert bad == {"text.jpg", "empty.png", "cut.png"}
    objects = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    assert [o["file"] for o in objects if "error" in o] == [
        row["file"] for row in rows.values() if row["error"]
    ]
    said = capsys.readouterr()
    assert "3 images classified, 3 could not be read" in said.out
    assert said.err.count("not read: ") == 3


def test_grad_cam_writes_one_picture_for_each_image(run, mixed, tmp_path):
    cams = tmp_path / "cams"
    assert main(["predict", str(run), str(mixed), "--cam", str(cams), "--workers", "0"]) == 1
    pictures = sorted(cams.iterdir())
    assert len(pictures) == 3
    assert any("红色" in p.name for p in pictures)
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.size == (32, 32)


def test_without_files_to_write_the_answers_are_printed(run, images, capsys):
    folder = images / "test" / "green"
    assert main(["predict", str(run / "weights"), str(folder), "--workers", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[0].startswith(f"{folder}/0.png: green ")


def test_a_folder_without_images_leaves_nothing_behind(run, tmp_path, capsys):
    (tmp_path / "none").mkdir()
    table = tmp_path / "out.csv"
    assert main(["predict", str(run), str(tmp_path / "none"), "--csv", str(table)]) == 2
    assert "no image found in" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["none"]


def test_memory_does_not_grow_with_the_number_of_images(run, tmp_path):
    """Ten times the images, 40 MB more if all were kept as decoded, and 190 MB as tensors."""
    rng = np.random.default_rng(0)
    peaks = []
    for count in (20, 200):
        folder = tmp_path / str(count)
        folder.mkdir()
        for i in range(count):
            Image.fromarray(rng.integers(0, 255, (270, 300, 3), np.uint8)).save(folder / f"{i}.bmp")
        arguments = ["predict", str(run), str(folder), "--csv", str(tmp_path / f"{count}.csv")]
        arguments += ["--batch-size", "8", "--workers", "0", "--device", "cpu"]
        code = (
            "import torch; from convnext.cli import main; from convnext.evaluate.cost import "
            f"peak_memory; assert main({arguments!r}) == 0; print(peak_memory(torch.device('cpu')))"
        )
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert said.returncode == 0, said.stderr
        peaks.append(int(said.stdout.split()[-1]))
    assert len((tmp_path / "200.csv").read_text().splitlines()) == 201
    assert peaks[1] - peaks[0] < 20e6
