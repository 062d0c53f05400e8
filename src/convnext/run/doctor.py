"""Check data before training."""

from collections.abc import Callable
from pathlib import Path

from convnext.data import DataConfig, DetectionDataConfig, SegmentationDataConfig
from convnext.data.detection import is_detection_set
from convnext.data.detection.doctor import scan_detection
from convnext.data.doctor import scan
from convnext.data.segmentation import is_segmentation_set, scan_segmentation
from convnext.run.folder import say_line, write_text

__all__ = ["doctor"]


def doctor(
    data: str, *, workers: int = -1, json: Path | None = None, say: Callable[[str], None] = say_line
) -> bool:
    """Read every image, say what is wrong with the data, and whether it can be trained on.

    Data in the form of COCO, Pascal VOC or YOLO are checked with their boxes and masks, images
    beside masks with their classes for every pixel.

    Raises:
        ValueError: There is no data at this place.
        OSError: A folder cannot be read, or `json` not be written.
    """
    if is_detection_set(data):
        report = scan_detection(DetectionDataConfig(path=data), workers)
    elif is_segmentation_set(data):
        report = scan_segmentation(SegmentationDataConfig(path=data), workers)
    else:
        report = scan(DataConfig(path=data), workers)
    if report.errors and report.errors[0].kind == "cannot_open":
        raise ValueError(report.errors[0].message)
    say(str(report))
    if json is not None:
        write_text(json, report.to_json() + "\n")
    return report.ok
