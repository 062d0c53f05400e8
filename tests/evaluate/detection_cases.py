"""Sets, detections and scores that the tests of detection share."""

import contextlib
import io

import numpy as np
import torch
from pycocotools import mask as coding
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from convnext.evaluate.coco import CocoMetrics
from convnext.evaluate.coco_masks import decode_mask


def scored(truth, detections, *, masks=True, backend="pycocotools"):
    names = [c["name"] for c in sorted(truth["categories"], key=lambda c: c["id"])]
    metrics = CocoMetrics(truth, names, masks=masks, backend=backend)
    for image, boxes, scores, labels, rles in detections:
        arrays = (torch.from_numpy(a) for a in (boxes, scores, labels))
        metrics.update(image, *arrays, rles if masks else None)
    return metrics.compute()


def made(*, boxes, image_size=(100, 100), images=1, categories=(1,), masks=False, **extra):
    """A ground truth of boxes (image, category, x1, y1, x2, y2), with their rectangles as masks."""
    annotations = []
    for number, (image, category, x1, y1, x2, y2) in enumerate(boxes, 1):
        entry = {"id": number, "image_id": image, "category_id": category, "iscrowd": 0}
        entry |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
        entry["segmentation"] = [[x1, y1, x2, y1, x2, y2, x1, y2]]
        annotations.append(entry | extra)
    height, width = image_size
    return {
        "images": [{"id": i, "height": height, "width": width} for i in range(1, images + 1)],
        "categories": [{"id": c, "name": f"class {c}"} for c in categories],
        "annotations": annotations,
    }


def found(image, *rows):
    """Detections (label, score, x1, y1, x2, y2) of an image, without masks."""
    array = np.array(rows, np.float32).reshape(-1, 6)
    return image, array[:, 2:], array[:, 1], array[:, 0].astype(np.int64), None


def reference(truth_file, results, kind):
    """The twelve numbers of pycocotools from files, in percent."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(truth_file)
        run = COCOeval(truth, truth.loadRes(results), kind)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return [100 * value for value in run.stats]


def noisy(truth, *, seed=0, keep=0.8, extra=3, masks=True):
    """For each image (id, boxes, scores, labels, rles): float32 boxes, masks moved with them."""
    random = np.random.default_rng(seed)
    ids = sorted(c["id"] for c in truth["categories"])
    by_image = {image["id"]: [] for image in truth["images"]}
    for entry in truth["annotations"]:
        by_image[entry["image_id"]].append(entry)
    for image in truth["images"]:
        height, width = image["height"], image["width"]
        boxes, labels, found = [], [], []
        for entry in by_image[image["id"]]:
            for _ in range(random.poisson(1.3 * keep)):
                x, y, w, h = entry["bbox"]
                move = random.normal(0, 0.07, 4) * [w, h, w, h]
                box = np.array([x, y, x + w, y + h]) + move
                boxes.append(np.clip(box, 0, [width, height] * 2))
                wrong = random.random() < 0.15
                right = ids.index(entry["category_id"])
                labels.append(random.integers(len(ids)) if wrong else right)
                found.append(moved(entry, move[:2], height, width) if masks else None)
        for _ in range(random.poisson(extra)):
            x1, x2 = sorted(random.uniform(0, width, 2))
            y1, y2 = sorted(random.uniform(0, height, 2))
            boxes.append(np.array([x1, y1, x2, y2]))
            labels.append(random.integers(len(ids)))
            square = np.zeros((height, width), np.uint8)
            square[int(y1) : int(y2), int(x1) : int(x2)] = 1
            found.append(coding.encode(np.asfortranarray(square)) if masks else None)
        # Scores on a coarse grid: ties must be settled alike.
        scores = np.round(random.uniform(0.05, 1, len(boxes)), 2).astype(np.float32)
        order = np.argsort(-scores, kind="stable")
        yield (
            image["id"],
            np.array(boxes, np.float32).reshape(-1, 4)[order],
            scores[order],
            np.array(labels, np.int64)[order],
            [found[i] for i in order] if masks else None,
        )


def moved(entry, move, height, width):
    rle = entry["segmentation"]
    if isinstance(rle, list):
        rle = coding.merge(coding.frPyObjects(rle, height, width))
    elif isinstance(rle["counts"], list):
        rle = coding.frPyObjects(rle, height, width)
    dx, dy = np.round(move).astype(int)
    return coding.encode(np.asfortranarray(np.roll(decode_mask(rle), (dy, dx), (0, 1)), np.uint8))
