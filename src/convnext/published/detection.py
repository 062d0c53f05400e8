"""Size, cost, speed and accuracy of detectors on COCO, as printed.

Sources: "A ConvNet for the 2020s", table 3 and the table of published files (images a second on an
A100); "ConvNeXt V2", table 6 (FCMAE pre-training on ImageNet-1K).
"""

from dataclasses import dataclass

__all__ = ["DETECTION_ROWS", "DETECTION_TABLES", "DetectionRow", "detection_rows"]


@dataclass(frozen=True, kw_only=True)
class DetectionRow:
    """One line of a table.

    Attributes:
        table: "table3" or "v2table6".
        detector: name of ours.
        data: what the backbone was pre-trained on.
        params: millions of parameters; None where the table does not say, likewise speed.
        gflops: billions of multiply-accumulates.
        images_per_second: inference on an A100.
        box_ap: AP, AP50 and AP75 of boxes in percent.
        mask_ap: likewise of masks.
    """

    table: str
    detector: str
    data: str
    params: float | None
    gflops: float
    images_per_second: float | None
    box_ap: tuple[float, float, float]
    mask_ap: tuple[float, float, float]


_CASCADE = "cascade_mask_rcnn_convnext_"
# detector, data, million parameters, GFLOPs, images/s, box AP, mask AP
_TABLE_3 = (
    ("mask_rcnn_convnext_tiny", "IN-1K", 48, 262, 25.6, (46.2, 67.9, 50.8), (41.7, 65.0, 44.9)),
    (_CASCADE + "tiny", "IN-1K", 86, 741, 13.5, (50.4, 69.1, 54.8), (43.7, 66.5, 47.3)),
    (_CASCADE + "small", "IN-1K", 108, 827, 12.0, (51.9, 70.8, 56.5), (45.0, 68.4, 49.1)),
    (_CASCADE + "base", "IN-1K", 146, 964, 11.4, (52.7, 71.3, 57.2), (45.6, 68.9, 49.5)),
    (_CASCADE + "base", "IN-22K", 146, 964, 11.5, (54.0, 73.1, 58.8), (46.9, 70.6, 51.3)),
    (_CASCADE + "large", "IN-22K", 255, 1354, 10.0, (54.8, 73.8, 59.8), (47.6, 71.3, 51.7)),
    (_CASCADE + "xlarge", "IN-22K", 407, 1898, 8.6, (55.2, 74.2, 59.9), (47.7, 71.6, 52.2)),
)
_V2_TABLE_6 = (
    ("mask_rcnn_convnextv2_base", 486, (52.9, 72.6, 58.9), (46.6, 70.0, 51.1)),
    ("mask_rcnn_convnextv2_large", 875, (54.4, 73.9, 60.4), (47.7, 71.4, 52.3)),
    ("mask_rcnn_convnextv2_huge", 2525, (55.7, 75.2, 61.8), (48.9, 72.8, 53.6)),
)
DETECTION_TABLES = ("table3", "v2table6")
DETECTION_ROWS = (
    *(
        DetectionRow(
            table="table3",
            detector=detector,
            data=data,
            params=params,
            gflops=gflops,
            images_per_second=speed,
            box_ap=box,
            mask_ap=mask,
        )
        for detector, data, params, gflops, speed, box, mask in _TABLE_3
    ),
    *(
        DetectionRow(
            table="v2table6",
            detector=detector,
            data="IN-1K",
            params=None,
            gflops=gflops,
            images_per_second=None,
            box_ap=box,
            mask_ap=mask,
        )
        for detector, gflops, box, mask in _V2_TABLE_6
    ),
)


def detection_rows(table: str = "", detector: str = "") -> list[DetectionRow]:
    """The lines of a table, or of a detector, or both; in the tables' order."""
    return [
        row for row in DETECTION_ROWS if table in ("", row.table) and detector in ("", row.detector)
    ]
