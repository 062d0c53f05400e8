"""The recipe chosen for a few real photographs learns from them."""

import json
import shutil

from PIL import Image

from convnext.cli import main


def test_two_hundred_and_fifty_flowers_from_scratch(real_images, tmp_path, capsys):
    data, out = tmp_path / "flowers", tmp_path / "run"
    for path in (real_images / "flowers5").rglob("*.jpg"):
        small = data / path.relative_to(real_images / "flowers5")
        small.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            image.draft("RGB", (96, 96))
            image.resize((40, 40), Image.Resampling.LANCZOS).save(small, quality=95)
    arguments = ["train", "--data", str(data), "--out", str(out), "--epochs", "8"]
    arguments += ["--task.model-args", '{"depths": [1, 1, 2, 1], "dims": [24, 48, 96, 192]}']
    assert main([*arguments, "--workers", "0", "--device", "cpu"]) == 0
    assert "from scratch" in capsys.readouterr().out
    scores = json.loads((out / "evaluation.json").read_text())
    assert scores["val"]["top1"] >= 35  # one class of five is 20
    assert "Most confident mistakes" in (out / "report.html").read_text()


def test_awkward_real_files_are_classified(real_images, run, tmp_path, capsys):
    folder = tmp_path / "odd"
    shutil.copytree(real_images / "odd_images", folder)
    assert main(["predict", str(run), str(folder), "--workers", "0"]) == 0
    assert "8 images classified, 0 could not be read" in capsys.readouterr().out
