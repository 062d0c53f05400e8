"""COCO metrics of boxes and masks, exact for any batch size and any number of processes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from convnext.evaluate.coco_backend import Backend, Counted, choose_backend, count
from convnext.evaluate.coco_masks import decode_counts, encode_truth, mask_area
from convnext.evaluate.coco_result import ClassAP, DetectionResult
from convnext.evaluate.gather import all_gather_rows

__all__ = ["CocoMetrics"]

Rle = Mapping[str, Any]  # {"size": [height, width], "counts": bytes or str}


class CocoMetrics:
    """Collects detections image by image; `compute` turns them into a `DetectionResult`.

    The scores depend on the set of detections alone, neither on batches nor on the number of
    ranks. Annotations are numbered anew: pycocotools takes an annotation with id 0 for no match at
    all, and of two with one id it forgets the first.

    Args:
        ground_truth: The set in COCO form: ``images`` (``id``, ``height``, ``width``),
            ``categories`` (``id``), ``annotations`` (``image_id``, ``category_id``, ``bbox``, and
            for masks ``segmentation``; ``area`` and ``iscrowd`` where known). It is not changed.
        classes: ``K`` names; label ``i`` is the i-th category in the order of the ids.
        masks: Whether masks are scored as well.
        backend: Who counts; "auto" is faster-coco-eval where installed.

    Raises:
        ValueError: Names and categories differ in number, an annotation names an unknown image or
            category, or a mask is asked for that is missing or broken.
    """

    def __init__(
        self,
        ground_truth: Mapping[str, Any],
        classes: Sequence[str],
        *,
        masks: bool,
        backend: Backend = "auto",
    ) -> None:
        self.class_names = tuple(classes)
        self.category_ids = tuple(sorted(int(c["id"]) for c in ground_truth["categories"]))
        if len(self.class_names) != len(self.category_ids):
            raise ValueError(
                f"{len(self.class_names)} class names for {len(self.category_ids)} categories: the "
                "class list of the network and the categories of the data differ"
            )
        self.masks = masks
        self.backend = choose_backend(backend)
        self._sizes = {
            int(image["id"]): (int(image["height"]), int(image["width"]))
            for image in ground_truth["images"]
        }
        self._truth = dict(_checked_truth(ground_truth, self._sizes, set(self.category_ids), masks))
        self._seen: list[Tensor] = []  # (1, 2) int64: image id, number of detections
        self._rows: list[Tensor] = []  # (n, 5) float32: box, score
        self._labels: list[Tensor] = []  # (n,) int64
        self._counts: list[bytes] = []  # compressed RLE of each detection
        self._gathered = False

    def update(
        self,
        image_id: int,
        boxes: Tensor,
        scores: Tensor,
        labels: Tensor,
        rles: Sequence[Rle] | None = None,
    ) -> None:
        """Add the detections of one image; an image without any is added with empty tensors.

        Args:
            image_id: Its ``id`` in the ground truth.
            boxes: ``(n, 4)`` x1, y1, x2, y2 in pixels of the original image.
            scores: ``(n,)``.
            labels: ``(n,)`` in 0..K-1.
            rles: ``n`` masks of the original size as compressed RLE, where masks are scored.

        Raises:
            ValueError: An unknown image, NaN, a label out of range, or masks that are missing or
                of another size than the image.
        """
        boxes, scores, labels = boxes.detach().cpu(), scores.detach().cpu(), labels.detach().cpu()
        n = len(scores)
        assert boxes.shape == (n, 4), f"boxes {tuple(boxes.shape)} for {n} scores"
        assert labels.shape == (n,), f"labels {tuple(labels.shape)} for {n} scores"
        if image_id not in self._sizes:
            raise ValueError(f"image id {image_id} is not in the ground truth")
        rows = torch.cat([boxes.float(), scores.float()[:, None]], dim=1)  # (n, 5)
        if not rows.isfinite().all():
            raise ValueError(
                f"the network answers NaN or infinity for image id {image_id}: its weights are "
                "broken, or the precision is too low (try fp32)"
            )
        if n and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.class_names):
            bad = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
            raise ValueError(
                f"label {bad} for image id {image_id} is outside 0..{len(self.class_names) - 1}: "
                "the network has another number of classes than the data"
            )
        if self.masks:
            self._counts += self._checked_masks(image_id, n, rles)
        self._seen.append(torch.tensor([[image_id, n]]))
        self._rows.append(rows)
        self._labels.append(labels.long())
        self._gathered = False

    def _checked_masks(self, image_id: int, n: int, rles: Sequence[Rle] | None) -> list[bytes]:
        if rles is None or len(rles) != n:
            found = "no masks" if rles is None else f"{len(rles)} masks"
            raise ValueError(
                f"{found} for {n} detections of image id {image_id}: masks are scored, so each "
                "detection needs one (or score boxes only)"
            )
        height, width = self._sizes[image_id]
        for rle in rles:
            if tuple(rle["size"]) != (height, width):
                raise ValueError(
                    f"a mask of {tuple(rle['size'])} for image id {image_id} of {(height, width)} "
                    "(height, width): masks have the size of the original image"
                )
        return [decode_counts(rle["counts"]) for rle in rles]

    def gather(self) -> None:
        """Bring the detections of all ranks to every rank; a collective call.

        Detections are put in order of image ids, so that equal scores rank the same however the
        images were shared out.
        """
        seen = all_gather_rows(torch.cat([torch.empty(0, 2, dtype=torch.int64), *self._seen]))
        rows = all_gather_rows(torch.cat([torch.empty(0, 5), *self._rows]))
        labels = all_gather_rows(torch.cat([torch.empty(0, dtype=torch.int64), *self._labels]))
        counts = _gather_bytes(self._counts)
        ids, numbers = seen.unbind(dim=1)
        order = ids.argsort(stable=True)
        assert bool((ids[order].diff() > 0).all()), "an image was evaluated twice"
        starts = numbers.cumsum(0) - numbers
        chosen = [
            torch.arange(start, start + n)
            for start, n in zip(starts[order].tolist(), numbers[order].tolist(), strict=True)
        ]
        index = torch.cat([torch.empty(0, dtype=torch.int64), *chosen])
        self._seen, self._rows, self._labels = [seen[order]], [rows[index]], [labels[index]]
        self._counts = [counts[i] for i in index.tolist()] if self.masks else []
        self._gathered = True

    def compute(self) -> DetectionResult:
        """All scores over all ranks; a collective call unless `gather` was called before.

        Raises:
            ValueError: The ground truth holds no image.
        """
        if not self._gathered:
            self.gather()
        if not self._sizes:
            raise ValueError("nothing to evaluate: the set holds no image")
        results = self._results()
        boxes = count("bbox", self._truth_for("bbox"), _with_areas(results), self.backend)
        mask_results, masks = None, None
        if self.masks:
            mask_results = self._mask_results(results)
            found = _with_mask_areas(mask_results)
            masks = count("segm", self._truth_for("segmentation"), found, self.backend)
        objects = [a for a in self._truth["annotations"] if not a["iscrowd"]]
        return DetectionResult(
            class_names=self.class_names,
            num_images=len(self._sizes),
            num_unseen=len(self._sizes) - len(self._seen[0]),
            num_objects=len(objects),
            num_crowds=len(self._truth["annotations"]) - len(objects),
            num_detections=len(results),
            box=boxes.summary(),
            mask=masks.summary() if masks else None,
            per_class=self._per_class(boxes, masks, objects, results),
            box_curves=boxes.curves(),
            mask_curves=masks.curves() if masks else None,
            results=results,
            mask_results=mask_results,
            backend=self.backend,
        )

    def _results(self) -> list[dict[str, Any]]:
        """The detections as COCO results; widths are taken in float64, so that none is rounded."""
        ids, numbers = self._seen[0].unbind(dim=1)
        rows = self._rows[0].double()
        rows[:, 2:4] -= rows[:, :2]
        images = ids.repeat_interleave(numbers).tolist()
        return [
            {"image_id": image, "category_id": self.category_ids[k], "bbox": row[:4]}
            | {"score": row[4]}
            for image, k, row in zip(images, self._labels[0].tolist(), rows.tolist(), strict=True)
        ]

    def _mask_results(self, results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            {name: result[name] for name in ("image_id", "category_id")}
            | {"segmentation": self._rle(result["image_id"], counts)}
            | {"score": result["score"]}
            for result, counts in zip(results, self._counts, strict=True)
        ]

    def _rle(self, image_id: int, counts: bytes) -> dict[str, Any]:
        return {"size": list(self._sizes[image_id]), "counts": counts.decode("ascii")}

    def _truth_for(self, shape: str) -> dict[str, Any]:
        """A copy for the counting code, which writes into annotations, with boxes or with masks."""
        kept = ("id", "image_id", "category_id", "area", "iscrowd", shape)
        copies = [{name: a[name] for name in kept} for a in self._truth["annotations"]]
        return self._truth | {"annotations": copies}

    def _per_class(
        self,
        boxes: Counted,
        masks: Counted | None,
        objects: Sequence[dict[str, Any]],
        results: Sequence[dict[str, Any]],
    ) -> tuple[ClassAP, ...]:
        there = Counter(a["category_id"] for a in objects)
        said = Counter(r["category_id"] for r in results)
        return tuple(
            ClassAP(
                name=name,
                num_objects=there[category],
                num_detections=said[category],
                box=boxes.summary(label),
                mask=masks.summary(label) if masks else None,
            )
            for label, (name, category) in enumerate(
                zip(self.class_names, self.category_ids, strict=True)
            )
        )


def _checked_truth(
    truth: Mapping[str, Any],
    sizes: Mapping[int, tuple[int, int]],
    categories: set[int],
    masks: bool,
) -> Mapping[str, Any]:
    """Images, categories and annotations reduced to what counts, complete and numbered from 1."""
    annotations = []
    for number, entry in enumerate(truth.get("annotations", ()), 1):
        name = f"annotation {entry.get('id', number)}"
        image, category = int(entry["image_id"]), int(entry["category_id"])
        if image not in sizes:
            raise ValueError(f"{name} belongs to image id {image}, which is not in the set")
        if category not in categories:
            raise ValueError(f"{name} has category id {category}, which is not in the set")
        box = [float(v) for v in entry["bbox"]]
        kept = {"id": number, "image_id": image, "category_id": category, "bbox": box}
        kept["iscrowd"] = int(entry.get("iscrowd") or 0)
        area = entry.get("area")
        if masks:
            rle = encode_truth(entry.get("segmentation"), sizes[image], name)
            kept["segmentation"] = rle
            area = mask_area(rle) if area is None else area
        kept["area"] = box[2] * box[3] if area is None else float(area)
        annotations.append(kept)
    images = [{"id": i, "height": h, "width": w} for i, (h, w) in sizes.items()]
    return {
        "images": images,
        "categories": [{"id": c, "name": str(c)} for c in sorted(categories)],
        "annotations": annotations,
    }


def _with_areas(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results as the counting code wants them; their boxes' areas decide small, medium, large."""
    return [
        r | {"id": i, "iscrowd": 0, "area": r["bbox"][2] * r["bbox"][3]}
        for i, r in enumerate(results, 1)
    ]


def _with_mask_areas(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        r | {"id": i, "iscrowd": 0, "area": mask_area(r["segmentation"])}
        for i, r in enumerate(results, 1)
    ]


def _gather_bytes(parts: Sequence[bytes]) -> list[bytes]:
    """Byte strings of all ranks, in rank order; a collective call."""
    lengths = all_gather_rows(torch.tensor([len(part) for part in parts], dtype=torch.int64))
    joined: npt.NDArray[np.uint8] = np.frombuffer(bytearray(b"".join(parts)), dtype=np.uint8)
    whole = all_gather_rows(torch.from_numpy(joined)).numpy().tobytes()
    ends = lengths.cumsum(0).tolist()
    return [whole[end - n : end] for end, n in zip(ends, lengths.tolist(), strict=True)]
