"""What a detector costs, counted as in the tables of the ConvNeXt papers.

The rule is that of `part_cost`. The image has 1280 x 800 pixels; every box head sees 1000 regions,
every mask head 100.
"""

from typing import Any

from torch import Tensor, nn

from convnext.evaluate.part_cost import PartCost, count_parts

__all__ = ["BOX_REGIONS", "IMAGE_SIZE", "MASK_REGIONS", "detector_cost"]

IMAGE_SIZE = (800, 1280)  # height, width
BOX_REGIONS, MASK_REGIONS = 1000, 100
BOX_BINS, MASK_BINS = 7, 14
PARTS = ("backbone", "neck", "rpn_head", "roi_head.bbox_head", "roi_head.mask_head")


def detector_cost(model: nn.Module, size: tuple[int, int] = IMAGE_SIZE) -> PartCost:
    """Count one image in evaluation mode; nothing is computed.

    Args:
        model: a `MaskRCNN`, on any device; it is not changed.
        size: height and width of the image, multiples of 32.

    Returns:
        Its parts are backbone, neck, rpn_head, roi_head.bbox_head and roi_head.mask_head.

    Raises:
        ValueError: a side is not a multiple of 32.

    Source: ConvNeXt table 3 and ConvNeXt V2, detection results; rule of mmcv's counter.
    """
    if min(size) < 1 or any(side % 32 for side in size):
        raise ValueError(f"image size {size[0]}x{size[1]}: both sides must be multiples of 32")

    def run(model: Any, like: Tensor) -> None:
        model.dense(like.new_empty(1, model.config.in_chans, *size))
        dim = model.config.fpn_dim
        for head in model.roi_head.box_heads:
            head(like.new_empty(BOX_REGIONS, dim, BOX_BINS, BOX_BINS))
        for head in model.roi_head.mask_heads:
            head(like.new_empty(MASK_REGIONS, dim, MASK_BINS, MASK_BINS))

    return count_parts(model, PARTS, run, size)
