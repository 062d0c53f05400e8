"""Detections written to files: COCO results as JSON, and tables."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from convnext.evaluate.coco_masks import decode_counts, mask_area
from convnext.evaluate.coco_result import DetectionResult

__all__ = ["CsvDetections", "JsonDetections", "write_results"]

Rle = Mapping[str, Any]


def write_results(result: DetectionResult, folder: Path) -> list[Path]:
    """Write the detections of an evaluation as lists that pycocotools' ``loadRes`` reads.

    Numbers are written in full, so that the file scores to the last digit as the evaluation did.
    Each file appears whole or not at all.

    Returns:
        ``detections_bbox.json`` and, where masks were scored, ``detections_segm.json``.

    Raises:
        OSError: A file cannot be written.
    """
    written = []
    lists = {"detections_bbox.json": result.results, "detections_segm.json": result.mask_results}
    for name, detections in lists.items():
        if detections is None:
            continue
        path = folder / name
        part = path.with_name(f"{name}.part")
        try:
            with part.open("w", encoding="utf-8") as file:
                writer = _ListWriter(file)
                for detection in detections:
                    writer.add(detection)
                writer.close()
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        written.append(path)
    return written


class _ListWriter:
    """A JSON list with one entry a line, none of them kept."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._before = "[\n"

    def add(self, entry: Mapping[str, Any]) -> None:
        self._file.write(self._before + json.dumps(entry, ensure_ascii=False, allow_nan=False))
        self._before = ",\n"

    def close(self) -> None:
        self._file.write("[]\n" if self._before == "[\n" else "\n]\n")


class JsonDetections:
    """COCO results of any number of images in constant memory, one detection a line.

    Each entry has ``image_id``, ``file_name``, ``category_id``, ``category``, ``bbox`` (x, y,
    width, height), ``score``, and ``segmentation`` and ``area`` where there is a mask. Who scores
    such a list as masks should drop ``bbox`` first: pycocotools else takes the area of the box.

    Args:
        file: An open text file; `close` completes what is in it and leaves it open.
        class_names: ``K`` names.
        category_ids: Their ids; by default 1..K.
    """

    def __init__(
        self,
        file: TextIO,
        class_names: Sequence[str],
        category_ids: Sequence[int] | None = None,
    ) -> None:
        self._writer = _ListWriter(file)
        self._names = class_names
        self._ids = category_ids or range(1, len(class_names) + 1)

    def add(
        self,
        name: str,
        image_id: int,
        boxes: npt.ArrayLike,
        scores: npt.ArrayLike,
        labels: npt.ArrayLike,
        rles: Sequence[Rle] | None = None,
    ) -> None:
        """Write the detections of one image.

        Args:
            name: Of the file.
            image_id: A number for the image.
            boxes: ``(n, 4)`` x1, y1, x2, y2 in pixels of the original image.
            scores: ``(n,)``.
            labels: ``(n,)`` in 0..K-1.
            rles: ``n`` masks as compressed RLE.
        """
        for number, (box, score, label) in enumerate(_rows(boxes, scores, labels)):
            x1, y1, x2, y2 = box
            entry: dict[str, Any] = {"image_id": image_id, "file_name": name}
            entry |= {"category_id": self._ids[label], "category": self._names[label]}
            entry["bbox"] = [round(v, 3) for v in (x1, y1, x2 - x1, y2 - y1)]
            entry["score"] = round(score, 6)
            if rles is not None:
                rle = rles[number]
                counts = decode_counts(rle["counts"]).decode("ascii")
                entry["segmentation"] = {"size": list(rle["size"]), "counts": counts}
                entry["area"] = mask_area(rle)
            self._writer.add(entry)

    def close(self) -> None:
        """End the list; without it the file is no JSON."""
        self._writer.close()


class CsvDetections:
    """A table with one row for each detection: file, label, score, x1, y1, x2, y2, area, error.

    ``area`` is that of the mask where there is one, else that of the box, in pixels. An image
    without detections has no row; a file that could not be read has one with the error only.

    Args:
        file: An open text file (``newline=""``).
        class_names: ``K`` names.
    """

    def __init__(self, file: TextIO, class_names: Sequence[str]) -> None:
        self._names = class_names
        self._writer = csv.writer(file)
        head = ("file", "label", "score", "x1", "y1", "x2", "y2", "area", "error")
        self._writer.writerow(head)

    def add(
        self,
        name: str,
        boxes: npt.ArrayLike,
        scores: npt.ArrayLike,
        labels: npt.ArrayLike,
        rles: Sequence[Rle] | None = None,
    ) -> None:
        """Write the rows of one image; the arguments are those of `JsonDetections.add`."""
        for number, (box, score, label) in enumerate(_rows(boxes, scores, labels)):
            x1, y1, x2, y2 = box
            area = (x2 - x1) * (y2 - y1) if rles is None else mask_area(rles[number])
            numbers = [f"{v:.2f}" for v in (*box, area)]
            self._writer.writerow([name, self._names[label], f"{score:.6f}", *numbers, ""])

    def unreadable(self, name: str, reason: str) -> None:
        """Write a row that holds the error only."""
        self._writer.writerow([name, *[""] * 7, reason])


def _rows(
    boxes: npt.ArrayLike, scores: npt.ArrayLike, labels: npt.ArrayLike
) -> Iterable[tuple[list[float], float, int]]:
    box_rows = np.asarray(boxes, dtype=np.float64).reshape(-1, 4).tolist()
    score_row = np.asarray(scores, dtype=np.float64).tolist()
    return zip(box_rows, score_row, np.asarray(labels, dtype=np.int64).tolist(), strict=True)
