"""The README's commands and snippets, executed as they stand there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

README = Path(__file__).resolve().parents[2] / "README.md"
# A reader trains for minutes on photographs; the test for seconds on coloured squares.
SHORTER = {"convnext train": " --epochs 2"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    return [line for block in blocks("bash") for line in block.splitlines() if line]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder `photos` of two classes, in the folder where the commands run."""
    generator = np.random.default_rng(0)
    for name, hue in (("daisy", 60), ("tulip", 190)):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for i in range(20):
            noise = generator.integers(0, 60, (180, 200, 3), dtype=np.uint8)
            Image.fromarray((noise + hue).astype(np.uint8)).save(folder / f"{i}.jpg")
    return tmp_path


def test_commands(photos, monkeypatch):
    found = commands()
    assert len(found) >= 6
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)  # where `convnext` is looked up
    for command in found:
        longer = next((more for word, more in SHORTER.items() if command.startswith(word)), "")
        run = subprocess.run(
            shlex.split(command.partition("#")[0] + longer),
            cwd=photos,
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, f"{command}\n{run.stdout}\n{run.stderr}"
    for written in ("runs/photos/report.html", "predictions.csv", "photos_timm.safetensors"):
        assert (photos / written).stat().st_size > 0
    assert len((photos / "predictions.csv").read_text().splitlines()) == 41


def test_snippets():
    printed = ""
    for snippet in blocks("python"):
        run = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        printed += run.stdout
    assert "[192, 384, 768] [8, 16, 32]" in printed


def test_links_lead_somewhere():
    for link in re.findall(r"\]\((?!http)([^)#]+)", README.read_text()):
        assert (README.parent / link).exists(), link
