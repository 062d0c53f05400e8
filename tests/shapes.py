"""Made-up detection data: coloured shapes on noise with exact masks, as a COCO data set."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

CLASSES = ("rectangle", "ellipse", "triangle")
CATEGORY_IDS = (2, 5, 9)  # with gaps, as in COCO


def draw_shapes(
    random: np.random.RandomState, height: int, width: int, most: int = 4
) -> tuple[NDArray[np.uint8], list[int], list[NDArray[np.uint8]]]:
    """A picture (H, W, 3), the class of each shape and the part of it (H, W) that is visible.

    Later shapes cover earlier ones; a shape of which less than 60 % would be left is not drawn.
    """
    pixels = random.normal(110, 18, (height, width, 3))
    labels: list[int] = []
    wholes: list[NDArray[np.bool_]] = []
    visible: list[NDArray[np.bool_]] = []
    for _ in range(random.randint(1, most + 1)):
        label = random.randint(len(CLASSES))
        shape = _shape(random, label, height, width)
        left = [mask & ~shape for mask in visible]
        pairs = zip(left, wholes, strict=True)
        if not shape.any() or any(part.sum() < 0.6 * whole.sum() for part, whole in pairs):
            continue
        visible = [*left, shape]
        wholes.append(shape)
        labels.append(label)
        colour = random.uniform(0, 255, 3)
        colour[label] = 255 - colour[label] / 4  # a hint of the class, not the whole of it
        pixels[shape] = colour + random.normal(0, 8, (int(shape.sum()), 3))
    masks = [mask.astype(np.uint8) for mask in visible]
    return pixels.clip(0, 255).astype(np.uint8), labels, masks


def _shape(random: np.random.RandomState, label: int, height: int, width: int) -> NDArray[np.bool_]:
    side = min(height, width)
    w, h = random.randint(side // 6, side // 2, 2).tolist()
    x, y = random.randint(0, width - w), random.randint(0, height - h)
    canvas = Image.new("1", (width, height))
    pen = ImageDraw.Draw(canvas)
    if CLASSES[label] == "rectangle":
        pen.rectangle((x, y, x + w - 1, y + h - 1), fill=1)
    elif CLASSES[label] == "ellipse":
        pen.ellipse((x, y, x + w - 1, y + h - 1), fill=1)
    else:
        pen.polygon(((x, y + h - 1), (x + w - 1, y + h - 1), (x + w // 2, y)), fill=1)
    return np.array(canvas)


def write_coco(
    folder: Path,
    num_train: int,
    num_val: int,
    size: int = 128,
    seed: int = 0,
    *,
    vary: bool = False,
    masks: bool = True,
) -> Path:
    """Write `annotations/instances_{train,val}.json` and the images in `train/` and `val/`.

    Args:
        folder: made if missing.
        num_train: number of images.
        num_val: number of images.
        size: side of the images in pixels.
        seed: another seed, other pictures.
        vary: give every image a width and a height between 3/4 and 4/4 of `size`.
        masks: write masks beside the boxes.

    Returns:
        `folder`.
    """
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for number, (split, count) in enumerate((("train", num_train), ("val", num_val))):
        (folder / split).mkdir(exist_ok=True)
        random = np.random.RandomState([seed, number])
        images, annotations = [], []
        for i in range(count):
            height, width = random.randint(size * 3 // 4, size + 1, 2) if vary else (size, size)
            pixels, labels, parts = draw_shapes(random, int(height), int(width))
            name = f"{split}_{i:04d}.png"
            Image.fromarray(pixels).save(folder / split / name, compress_level=1)
            image = {"id": 10 * i + 7, "file_name": name, "height": int(height)}
            images.append(image | {"width": int(width)})
            for label, part in zip(labels, parts, strict=True):
                entry = annotation(part, CATEGORY_IDS[label], masks=masks)
                annotations.append(entry | {"id": len(annotations) + 1, "image_id": image["id"]})
        write_json(folder / "annotations" / f"instances_{split}.json", images, annotations)
    return folder


def annotation(mask: NDArray[np.uint8], category: int, *, masks: bool = True) -> dict[str, Any]:
    """One object in COCO form, without its own id and that of its image."""
    rle = coco_mask.encode(np.asfortranarray(mask))
    entry: dict[str, Any] = {
        "category_id": category,
        "bbox": [float(value) for value in coco_mask.toBbox(rle)],
        "area": float(coco_mask.area(rle)),
        "iscrowd": 0,
    }
    if masks:
        entry["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode()}
    return entry


def write_json(
    path: Path, images: Sequence[dict[str, Any]], annotations: Sequence[dict[str, Any]]
) -> None:
    """Write a COCO file with the classes of this module."""
    categories = [
        {"id": number, "name": name} for number, name in zip(CATEGORY_IDS, CLASSES, strict=True)
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content), encoding="utf-8")


SEGMENTS = ("background", *CLASSES)  # values 0 to 3 of masks; the border of shapes is 255
_PLACES = {
    # Of each layout: where images and masks of a split are, and the ending of their names.
    "plain": ("images/{split}/{name}.png", "masks/{split}/{name}.png"),
    "flat": ("images/{name}.png", "masks/{name}_mask.png"),
    "folders": ("{split}/images/{name}.png", "{split}/masks/{name}.png"),
    "pairs": ("{split}/{name}.png", "{split}annot/{name}.png"),
    "ade20k": ("images/{long}/{name}.jpg", "annotations/{long}/{name}.png"),
    "voc": ("JPEGImages/{name}.jpg", "SegmentationClass/{name}.png"),
    "cityscapes": (
        "leftImg8bit/{split}/ulm/{name}_leftImg8bit.png",
        "gtFine/{split}/ulm/{name}_gtFine_labelIds.png",
    ),
}
_CITYSCAPES_IDS = (7, 11, 24, 26)  # road, building, person, car


def write_segmentation(
    folder: Path,
    num_train: int = 8,
    num_val: int = 4,
    size: int = 64,
    seed: int = 0,
    *,
    layout: str = "plain",
    vary: bool = False,
    names: bool = True,
) -> Path:
    """Write pictures of coloured shapes with masks: background and the three shapes.

    Masks are index PNG. A few pixels of each are 255, which counts for nothing. The layouts
    "ade20k", "voc" and "cityscapes" have the values of those sets (1 to 4; 0 to 3 with a palette;
    ids of four of the classes) and their names; "flat" knows no splits.

    Args:
        folder: made if missing.
        num_train: number of images.
        num_val: number of images.
        size: side of the images in pixels.
        seed: another seed, other pictures.
        layout: one of plain, flat, folders, pairs, ade20k, voc, cityscapes.
        vary: give every image a width and a height between 3/4 and 4/4 of `size`.
        names: write `classes.txt` where the layout has no names of its own.

    Returns:
        `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lists: dict[str, list[str]] = {}
    for number, (split, count) in enumerate((("train", num_train), ("val", num_val))):
        random = np.random.RandomState([seed, number])
        lists[split] = [f"{split}_{i:04d}" for i in range(count)]
        for name in lists[split]:
            height, width = random.randint(size * 3 // 4, size + 1, 2) if vary else (size, size)
            pixels, labels, parts = draw_shapes(random, int(height), int(width))
            mask = np.zeros(pixels.shape[:2], np.uint8)
            for label, part in zip(labels, parts, strict=True):
                mask[part > 0] = label + 1
            long = {"train": "training", "val": "validation"}[split]
            image, truth = (
                folder / place.format(split=split, long=long, name=name)
                for place in _PLACES[layout]
            )
            image.parent.mkdir(parents=True, exist_ok=True)
            truth.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(
                image, **({"quality": 95} if image.suffix != ".png" else {})
            )
            _coded(mask, layout).save(truth, compress_level=1)
    if layout == "voc":
        place = folder / "ImageSets" / "Segmentation"
        place.mkdir(parents=True, exist_ok=True)
        for split, stems in lists.items():
            (place / f"{split}.txt").write_text("\n".join(stems) + "\n")
    elif names and layout not in ("ade20k", "cityscapes"):
        (folder / "classes.txt").write_text("\n".join(SEGMENTS) + "\n")
    return folder


def _coded(mask: NDArray[np.uint8], layout: str) -> Image.Image:
    """A mask of values 0 to 3 as a layout has it, with a strip of ignored pixels."""
    values = {
        "ade20k": np.arange(1, 5, dtype=np.uint8),
        "cityscapes": np.array(_CITYSCAPES_IDS, np.uint8),
    }.get(layout, np.arange(4, dtype=np.uint8))
    coded = values[mask]
    coded[0, : len(coded[0]) // 4] = {"ade20k": 0, "cityscapes": 0}.get(layout, 255)
    image = Image.fromarray(coded)
    if layout == "voc":
        image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0] + 756 * [200])
    return image
