"""Check data before training."""

from collections.abc import Callable, Mapping
from json import dumps, loads
from pathlib import Path
from typing import Any

from convnext.data import DataConfig, DetectionDataConfig, SegmentationDataConfig
from convnext.data.detection import is_detection_set
from convnext.data.detection.doctor import scan_detection
from convnext.data.doctor import DoctorReport, scan
from convnext.data.segmentation import is_segmentation_set, scan_segmentation
from convnext.run.folder import say_line, write_text

__all__ = ["doctor"]


def doctor(
    data: str,
    *,
    workers: int = -1,
    json: Path | None = None,
    reading: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = say_line,
) -> bool:
    """Read every image, say what is wrong with the data, and whether it can be trained on.

    Data in the form of COCO, Pascal VOC or YOLO are checked with their boxes and masks, images
    beside masks with their classes for every pixel, and what has both in both ways.

    Args:
        data: Where the images are.
        workers: Processes that read them, -1 = fit for this machine.
        json: A file to write what was found to: a report; of data with both forms an object with
            `ok` and a report for each.
        reading: Fields of `SegmentationDataConfig` that say how masks are read.
        say: Where what was found goes.

    Raises:
        ValueError: There is no data at this place, or none with masks to be read in this way.
        OSError: A folder cannot be read, or `json` not be written.
    """
    masks = is_segmentation_set(data)
    if reading and not masks:
        option = next(iter(reading)).replace("_", "-")
        raise ValueError(f"--{option} is for images beside masks of classes, and {data} has none")
    reports: dict[str, DoctorReport] = {}
    if is_detection_set(data):
        reports["detection"] = scan_detection(DetectionDataConfig(path=data), workers)
    if masks:
        config = SegmentationDataConfig(path=data, **(reading or {}))
        reports["segmentation"] = scan_segmentation(config, workers)
    if not reports:
        reports["classification"] = scan(DataConfig(path=data), workers)
    shut = [r.errors[0] for r in reports.values() if r.errors and r.errors[0].kind == "cannot_open"]
    if len(shut) == len(reports):
        raise ValueError(shut[0].message)
    for form, report in reports.items():
        say(f"{form}: {report}" if len(reports) > 1 else str(report))
    ok = all(report.ok for report in reports.values())
    if json is not None:
        write_text(json, _as_json(reports, ok=ok) + "\n")
    return ok


def _as_json(reports: dict[str, DoctorReport], *, ok: bool) -> str:
    parts = {form: report.to_json() for form, report in reports.items()}
    if len(parts) == 1:
        return next(iter(parts.values()))
    values = {form: loads(text) for form, text in parts.items()}
    return dumps({"ok": ok, **values}, indent=2)
