"""Tiny coloured images, one trained run that many tests look at, and ways to run the command."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convnext.cli import main

COLOURS = {"blue": (40, 40, 200), "green": (40, 200, 40), "red": (200, 40, 40)}
# A network of a few thousand weights, and a schedule of 12 steps.
TINY = [
    *("--task.model-args", '{"depths": [1, 1, 1, 1], "dims": [8, 12, 16, 24]}'),
    *(
        "--task.stem-stride",
        "4",
        "--image-size",
        "32",
        "--device",
        "cpu",
        "--train.precision",
        "fp32",
    ),
    *("--batch-size", "8", "--epochs", "3", "--train.log-every-steps", "1"),
]


def write_images(folder: Path, count: int, *, seed: int = 0) -> Path:
    """`count` noisy 48 x 40 images of each colour, in class folders."""
    rng = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = np.array(colour) + rng.normal(0, 60, (40, 48, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["CONVNEXT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders train/ (12 of each class), val/ (6) and test/ (4)."""
    root = tmp_path_factory.mktemp("images")
    for seed, (split, count) in enumerate({"train": 12, "val": 6, "test": 4}.items()):
        write_images(root / split, count, seed=seed)
    return root


@pytest.fixture(scope="session")
def train_arguments(images: Path) -> Callable[..., list[str]]:
    """Arguments of a small training run into a folder."""

    def arguments(out: Path, *more: str) -> list[str]:
        return ["train", "--data", str(images), "--out", str(out), *TINY, "--workers", "0", *more]

    return arguments


@pytest.fixture(scope="session")
def run(
    tmp_path_factory: pytest.TempPathFactory, train_arguments: Callable[..., list[str]]
) -> Path:
    """The folder of a finished run. Tests only read it."""
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(train_arguments(out)) == 0
    return out


@pytest.fixture
def image_writer() -> Callable[..., Path]:
    """`write_images`, for tests that need data of their own."""
    return write_images


@pytest.fixture
def start() -> Callable[..., subprocess.Popen[str]]:
    """Start the command in a process of its own."""

    def start_command(arguments: list[str], prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        command = [sys.executable, *prefix, "-m", "convnext.cli", *arguments]
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    return start_command
