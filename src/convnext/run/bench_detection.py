"""How detectors are counted and timed."""

import torch
from torch import Tensor

from convnext.evaluate.detector_cost import (
    BOX_REGIONS,
    IMAGE_SIZE,
    MASK_REGIONS,
    detector_cost,
)
from convnext.models.mask_rcnn import MaskRCNN, detector_config
from convnext.published.detection import detection_rows
from convnext.run.bench_parts import Printed, System
from convnext.weights.detection import build_detector

__all__ = ["DETECTION"]


def _printed(table: str) -> list[Printed]:
    return [
        Printed(
            network=row.detector,
            size=IMAGE_SIZE,
            columns={
                "data": row.data,
                "paper_params": row.params,
                "paper_gflops": row.gflops,
                "paper_images_per_second": row.images_per_second,
                "box_ap": row.box_ap[0],
                "mask_ap": row.mask_ap[0],
            },
        )
        for row in detection_rows(table)
    ]


def _detect(model: MaskRCNN, images: Tensor) -> object:
    """All stages; new weights find nothing, so that masks are those of the first proposals."""
    height, width = images.shape[2:]
    sizes = torch.tensor([(height, width)] * len(images), device=images.device)
    levels, outputs = model.dense(images)
    proposals = [p[:, :4] for p in model.rpn_head.proposals(outputs, sizes)]
    found = model.roi_head.scores(levels[:-1], sizes, proposals)
    if not model.config.masks:
        return found
    boxes = [p[:MASK_REGIONS] for p in proposals]
    labels = [torch.zeros(len(b), dtype=torch.long, device=b.device) for b in boxes]
    return model.roi_head.mask_probabilities(levels[:-1], boxes, labels)


DETECTION = System(
    noun="detector",
    size=IMAGE_SIZE,
    parts={
        "backbone": "backbone",
        "neck": "neck",
        "rpn": "rpn_head",
        "box_heads": "roi_head.bbox_head",
        "mask_heads": "roi_head.mask_head",
    },
    printed=_printed,
    build=lambda name: build_detector(detector_config(name)),
    count=detector_cost,
    infer=_detect,
    counted=(
        f"the papers' rule for detectors: one image of {{size}}, {BOX_REGIONS} regions in each box "
        f"head, {MASK_REGIONS} in each mask head; multiply-accumulates, biases of convolutions, "
        "and ReLU layers"
    ),
    timed=(
        "everything but the last suppression and the drawing of masks, with "
        f"{MASK_REGIONS} masks an image"
    ),
)
