"""Size, cost and accuracy of segmentation networks on ADE20K, as printed.

Sources: "A ConvNet for the 2020s", table 4 (mIoU of several scales with flips) and the table of
published files (of one scale); "ConvNeXt V2", table 7 (FCMAE pre-training).
"""

from dataclasses import dataclass

__all__ = ["SEGMENTATION_ROWS", "SEGMENTATION_TABLES", "SegmentationRow", "segmentation_rows"]


@dataclass(frozen=True, kw_only=True)
class SegmentationRow:
    """One line of a table.

    Attributes:
        table: "table4" or "v2table7".
        segmenter: name of ours.
        data: what the backbone was pre-trained on.
        crop: side of the training crops in pixels.
        params: millions of parameters.
        gflops: billions of multiply-accumulates.
        miou: of one scale, in percent; None where it was not printed.
        miou_multi_scale: of several scales with flips.
    """

    table: str
    segmenter: str
    data: str
    crop: int
    params: float
    gflops: float
    miou: float | None
    miou_multi_scale: float

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image that the operations are of."""
        return self.crop, 4 * self.crop


# table, backbone, data, crop, million parameters, GFLOPs, mIoU of one scale, of several
_ROWS = (
    ("table4", "convnext_tiny", "IN-1K", 512, 60, 939, 46.0, 46.7),
    ("table4", "convnext_small", "IN-1K", 512, 82, 1027, 48.7, 49.6),
    ("table4", "convnext_base", "IN-1K", 512, 122, 1170, 49.1, 49.9),
    ("table4", "convnext_base", "IN-22K", 640, 122, 1828, 52.6, 53.1),
    ("table4", "convnext_large", "IN-22K", 640, 235, 2458, 53.2, 53.7),
    ("table4", "convnext_xlarge", "IN-22K", 640, 391, 3335, 53.6, 54.0),
    ("v2table7", "convnextv2_base", "IN-1K", 512, 122, 1170, None, 52.1),
    ("v2table7", "convnextv2_large", "IN-1K", 512, 235, 1573, None, 53.7),
    ("v2table7", "convnextv2_huge", "IN-1K", 512, 707, 3272, None, 55.0),
    ("v2table7", "convnextv2_huge", "IN-22K", 640, 707, 5113, None, 57.0),
)
SEGMENTATION_TABLES = ("table4", "v2table7")
SEGMENTATION_ROWS = tuple(
    SegmentationRow(
        table=table,
        segmenter=f"upernet_{backbone}",
        data=data,
        crop=crop,
        params=params,
        gflops=gflops,
        miou=single,
        miou_multi_scale=several,
    )
    for table, backbone, data, crop, params, gflops, single, several in _ROWS
)


def segmentation_rows(table: str = "", segmenter: str = "") -> list[SegmentationRow]:
    """The lines of a table, or of a segmenter, or both; in the tables' order."""
    return [
        row
        for row in SEGMENTATION_ROWS
        if table in ("", row.table) and segmenter in ("", row.segmenter)
    ]
