"""What a segmentation network costs, counted as in the tables of the ConvNeXt papers.

The rule is that of `part_cost`. The image has 2048 x 512 pixels, or 2560 x 640 for networks that
were trained on crops of 640; the auxiliary head has parameters but does not run.
"""

from torch import nn

from convnext.evaluate.part_cost import PartCost, count_parts

__all__ = ["IMAGE_SIZE", "LARGE_IMAGE_SIZE", "segmenter_cost"]

IMAGE_SIZE, LARGE_IMAGE_SIZE = (512, 2048), (640, 2560)  # height, width
MIN_SIDE = 32
PARTS = ("backbone", "decode_head")


def segmenter_cost(model: nn.Module, size: tuple[int, int] = IMAGE_SIZE) -> PartCost:
    """Count one image in evaluation mode; nothing is computed.

    Args:
        model: a `UPerNet`, on any device; it is not changed.
        size: height and width of the image, at least 32 each.

    Returns:
        Its parts are backbone and decode_head.

    Raises:
        ValueError: a side is below 32.

    Source: ConvNeXt table 4 and ConvNeXt V2 table 7; rule of mmcv's counter.
    """
    if min(size) < MIN_SIDE:
        raise ValueError(f"image size {size[0]}x{size[1]}: both sides must be at least {MIN_SIDE}")
    return count_parts(
        model,
        PARTS,
        lambda model, like: model(like.new_empty(1, model.config.in_chans, *size)),
        size,
    )
