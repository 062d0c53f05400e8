"""Small made-up data sets."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CONVNEXT_CACHE", str(tmp_path_factory.mktemp("cache")))


def noise(seed: int, width: int = 40, height: int = 36, mode: str = "RGB") -> Image.Image:
    """A smooth random picture, different for every seed."""
    random = np.random.RandomState(seed)
    coarse = random.randint(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


@pytest.fixture
def picture() -> Callable[..., Image.Image]:
    return noise


@pytest.fixture
def make_folder(tmp_path) -> Callable[..., Path]:
    """Write {"folder/of/class": number of images} below tmp_path / name."""

    def make(counts: Mapping[str, int], name: str = "set", suffix: str = ".png") -> Path:
        root = tmp_path / name
        seed = 0
        for folder, count in counts.items():
            (root / folder).mkdir(parents=True)
            for i in range(count):
                noise(seed).save(root / folder / f"{i:03d}{suffix}")
                seed += 1
        return root

    return make
