"""What detectors cost and how fast they are, beside what the papers print."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

from convnext.evaluate.detector_cost import (
    BOX_REGIONS,
    IMAGE_SIZE,
    MASK_REGIONS,
    DetectorCost,
    detector_cost,
)
from convnext.evaluate.timing import interleaved, spread
from convnext.models.mask_rcnn import MaskRCNN, detector_config
from convnext.published.detection import DetectionRow, detection_rows
from convnext.run.bench_network import DTYPES, Dtype, Format, tf32
from convnext.run.folder import say_line
from convnext.run.loading import pick_device
from convnext.weights.detection.architecture import build_detector

__all__ = ["DetectorBench", "bench_detectors", "detectors_of"]

Row = dict[str, Any]
GIGA = 1e9
PARTS = {
    "backbone": "backbone",
    "neck": "neck",
    "rpn": "rpn_head",
    "box_heads": "roi_head.bbox_head",
    "mask_heads": "roi_head.mask_head",
}


@dataclass(frozen=True, kw_only=True)
class DetectorBench:
    """What is counted and measured.

    Attributes:
        detectors: their names.
        table: with the numbers of this table of a paper only, see `published.detection`; "" takes
            those of all.
        size: height and width of the image, multiples of 32.
        infer: whether inference is timed.
        batch_size: images a batch.
        dtypes: arithmetic of inference; bf16 and fp16 by autocast.
        memory_format: layout of images and weights.
        device: "cpu", "cuda", ...
        rounds: interleaved rounds.
        seconds: about how long a detector runs in one round.

    Raises:
        ValueError: a value is out of its range.
    """

    detectors: tuple[str, ...]
    table: str = ""
    size: tuple[int, int] = IMAGE_SIZE
    infer: bool = False
    batch_size: int = 1
    dtypes: tuple[Dtype, ...] = ("fp32",)
    memory_format: Format = "channels_last"
    device: str = "cpu"
    rounds: int = 5
    seconds: float = 1.0

    def __post_init__(self) -> None:
        if not self.detectors:
            raise ValueError("no detectors: name some")
        if min(self.batch_size, self.rounds) < 1 or self.seconds <= 0:
            raise ValueError("batch sizes and rounds must be at least 1, seconds above 0")
        if "tf32" in self.dtypes and not self.device.startswith("cuda"):
            raise ValueError("tf32 is arithmetic of CUDA devices; take fp32 or bf16 on this one")


def detectors_of(table: str, names: Sequence[str]) -> tuple[str, ...]:
    """The detectors of a table of a paper, or those of them that are named; without a table all.

    Raises:
        ValueError: the table has no such detector.
    """
    if not table:
        return tuple(names)
    known = tuple(dict.fromkeys(row.detector for row in detection_rows(table)))
    for name in names:
        if name not in known:
            raise ValueError(f"{table} has no {name!r}; it has {', '.join(known)}")
    return tuple(names) or known


def bench_detectors(config: DetectorBench, *, say: Callable[[str], None] = say_line) -> list[Row]:
    """Count detectors as the papers do, and time them if that was asked for.

    Args:
        config: what is measured.
        say: where messages go.

    Returns:
        One row for each arithmetic, detector and line of a paper about it.

    Raises:
        ValueError: there is no such detector or device, or a side is not a multiple of 32.
    """
    pick_device(config.device)
    height, width = config.size
    say(
        f"counted: the papers' rule for detectors: one image of {width}x{height}, {BOX_REGIONS} "
        f"regions in each box head, {MASK_REGIONS} in each mask head; multiply-accumulates, biases "
        "of convolutions, and ReLU layers"
    )
    counted = {name: _count(name, config.size) for name in dict.fromkeys(config.detectors)}
    if not config.infer:
        return [row for name, cost in counted.items() for row in _lines(name, cost, config)]
    say(
        f"timed: everything but the last suppression and the drawing of masks, with "
        f"{MASK_REGIONS} masks an image"
    )
    rows = []
    for dtype in config.dtypes:
        sides = {name: _inference(name, dtype, config) for name in counted}
        times = interleaved(sides, rounds=config.rounds, seconds=config.seconds)
        for name, cost in counted.items():
            measured = {
                "batch_size": config.batch_size,
                "dtype": dtype,
                "images_per_second": round(config.batch_size / statistics.median(times[name]), 3),
                "spread_percent": round(spread(times[name]), 1),
                "seconds_a_batch": times[name],
            }
            rows += [row | measured for row in _lines(name, cost, config)]
    return rows


def _count(name: str, size: tuple[int, int]) -> DetectorCost:
    with torch.device("meta"):
        model = build_detector(detector_config(name))
    return detector_cost(model, size)


def _lines(name: str, cost: DetectorCost, config: DetectorBench) -> list[Row]:
    """A row for each line of the papers about a detector, or one without their numbers."""
    own = {
        "detector": name,
        "size": f"{cost.size[1]}x{cost.size[0]}",
        "params": cost.params,
        "gflops": round(cost.flops / GIGA, 3),
        **{word: round(cost.parts.get(part, 0) / GIGA, 3) for word, part in PARTS.items()},
    }
    printed = detection_rows(config.table, name) if cost.size == IMAGE_SIZE else []
    return [own | _printed(row) for row in printed] or [own | _printed(None)]


def _printed(row: DetectionRow | None) -> Row:
    return {
        "data": row.data if row else None,
        "paper_params": row.params if row else None,
        "paper_gflops": row.gflops if row else None,
        "paper_images_per_second": row.images_per_second if row else None,
        "box_ap": row.box_ap[0] if row else None,
        "mask_ap": row.mask_ap[0] if row else None,
    }


def _inference(name: str, dtype: Dtype, config: DetectorBench) -> Callable[[], object]:
    """Detection in a batch of noise by a detector with new weights."""
    torch.manual_seed(0)
    model = build_detector(detector_config(name)).eval().to(config.device)
    images = torch.randn(config.batch_size, 3, *config.size).to(config.device)
    if config.memory_format == "channels_last":
        model.to(memory_format=cast(Any, torch.channels_last))
        images = images.to(memory_format=torch.channels_last)
    sizes = torch.tensor([config.size] * config.batch_size, device=config.device)
    kind: Literal["cuda", "cpu"] = "cuda" if config.device.startswith("cuda") else "cpu"
    low = dtype in ("bf16", "fp16")

    def infer() -> object:
        autocast = torch.autocast(kind, dtype=DTYPES[dtype], enabled=low)
        with torch.inference_mode(), tf32(dtype), autocast:
            return _detect(model, images, sizes)

    return infer


def _detect(model: MaskRCNN, images: Tensor, sizes: Tensor) -> object:
    """All stages; new weights find nothing, so that masks are those of the first proposals."""
    levels, outputs = model.dense(images)
    proposals = [p[:, :4] for p in model.rpn_head.proposals(outputs, sizes)]
    found = model.roi_head.scores(levels[:-1], sizes, proposals)
    if not model.config.masks:
        return found
    boxes = [p[:MASK_REGIONS] for p in proposals]
    labels = [torch.zeros(len(b), dtype=torch.long, device=b.device) for b in boxes]
    return model.roi_head.mask_probabilities(levels[:-1], boxes, labels)
