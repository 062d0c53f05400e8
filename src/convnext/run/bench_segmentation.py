"""How segmentation networks are counted and timed."""

from convnext.evaluate.segmenter_cost import IMAGE_SIZE, segmenter_cost
from convnext.models.upernet import segmenter_config
from convnext.published.segmentation import segmentation_rows
from convnext.run.bench_parts import Printed, System
from convnext.weights.segmentation import build_segmenter

__all__ = ["SEGMENTATION"]


def _printed(table: str) -> list[Printed]:
    return [
        Printed(
            network=row.segmenter,
            size=row.size,
            columns={
                "data": row.data,
                "paper_params": row.params,
                "paper_gflops": row.gflops,
                "miou": row.miou,
                "miou_multi_scale": row.miou_multi_scale,
            },
        )
        for row in segmentation_rows(table)
    ]


SEGMENTATION = System(
    noun="segmenter",
    size=IMAGE_SIZE,
    parts={"backbone": "backbone", "head": "decode_head"},
    printed=_printed,
    build=lambda name: build_segmenter(segmenter_config(name)),
    count=segmenter_cost,
    infer=lambda model, images: model(images),
    counted=(
        "the papers' rule for segmentation: one image of {size}, without the auxiliary head, whose "
        "parameters count; multiply-accumulates, biases of convolutions, ReLU layers, and what "
        "pooling reads"
    ),
    timed="the whole image at once, to logits of its size",
)
