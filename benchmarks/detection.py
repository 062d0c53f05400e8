"""Mask R-CNN against torchvision's with the same backbone and settings, and Cascade by its parts.

torchvision's detector gets this package's body and norms, 1,000 proposals as here, adaptive
sampling in RoIAlign and no threshold, so that both find 100 boxes and paste 100 masks in inference.
"""

import argparse
import json
import multiprocessing
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from convnext.evaluate.cost import peak_memory
from convnext.evaluate.timing import interleaved, ratio
from convnext.models.detection.masks import paste
from convnext.models.detection.pooling import pool, with_image
from convnext.models.map_backbone import MapBackbone
from convnext.models.mask_rcnn import MaskRCNN, MaskRCNNConfig, Target
from convnext.models.registry import build_model

HEIGHT, WIDTH = 480, 640
BOXES = [[10, 20, 200, 300], [100, 100, 400, 400], [5, 5, 60, 60], [300, 200, 420, 310]]
SIDES = ("convnext", "torchvision")


class Pyramid(nn.Module):
    """What torchvision calls a backbone: body, norms and pyramid."""

    def __init__(self, name: str) -> None:
        super().__init__()
        body = build_model(name, features_only=True, num_classes=0)
        self.backbone = MapBackbone(body)
        self.fpn = FeaturePyramidNetwork(self.backbone.channels, 256, LastLevelMaxPool())
        self.out_channels = 256

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = {str(i): m for i, m in enumerate(self.backbone(x))}
        levels: dict[str, Tensor] = self.fpn(maps)
        return levels


def theirs(name: str) -> nn.Module:
    sizes = tuple((8 * stride,) for stride in (4, 8, 16, 32, 64))
    levels = ["0", "1", "2", "3"]
    model: nn.Module = TorchvisionMaskRCNN(
        Pyramid(name),
        num_classes=81,
        min_size=HEIGHT,
        max_size=WIDTH,
        rpn_anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5),
        rpn_post_nms_top_n_train=1000,
        box_roi_pool=MultiScaleRoIAlign(levels, 7, 0),
        mask_roi_pool=MultiScaleRoIAlign(levels, 14, 0),
        box_score_thresh=0.0,
    )
    return model


def step(side: str, name: str, phase: str, batch: int) -> Callable[[], None]:
    """One forward pass, or one forward and backward pass, as a function without arguments."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ours = side == "convnext"
    config = MaskRCNNConfig(backbone=name, score_threshold=0.0)
    model = MaskRCNN(config) if ours else theirs(name)
    model.to(device, memory_format=torch.channels_last).train(phase == "training")
    images = torch.randn(batch, 3, HEIGHT, WIDTH, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    sizes = torch.tensor([[HEIGHT, WIDTH]] * batch, device=device)
    boxes = torch.tensor(BOXES, dtype=torch.float32, device=device)
    labels = torch.arange(1, 1 + len(BOXES), device=device)
    masks = torch.zeros(len(BOXES), HEIGHT, WIDTH, dtype=torch.uint8, device=device)
    for mask, (x1, y1, x2, y2) in zip(masks, BOXES, strict=True):
        mask[y1:y2, x1:x2] = 1
    targets = [Target(boxes, labels, masks)] * batch
    dicts = [{"boxes": boxes, "labels": labels, "masks": masks}] * batch

    def train() -> None:
        losses = model(images, sizes, targets) if ours else model(list(images), dicts)
        sum(losses.values()).backward()
        for p in model.parameters():
            p.grad = None

    def infer() -> None:
        with torch.no_grad():
            if not ours:
                model(list(images))
                return
            for found in model(images, sizes):
                for mask, box in zip(found.masks.cpu(), found.boxes.cpu(), strict=True):
                    paste(mask, box, (HEIGHT, WIDTH))

    return train if phase == "training" else infer


def _peak(side: str, name: str, phase: str, batch: int, pipe: Any) -> None:
    run = step(side, name, phase, batch)
    for _ in range(2):
        run()
    pipe.send(peak_memory(torch.device("cuda" if torch.cuda.is_available() else "cpu")) / 2**20)


def compare(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Images/s and peak memory of both, each memory in a process of its own."""
    rows: list[dict[str, Any]] = []
    context = multiprocessing.get_context("spawn")
    for name in arguments.models:
        for phase in arguments.phases:
            for batch in arguments.batches:
                sides = {side: step(side, name, phase, batch) for side in SIDES}
                times = interleaved(sides, rounds=arguments.rounds, seconds=arguments.seconds)
                row: dict[str, Any] = {"model": f"mask_rcnn_{name}", "phase": phase, "batch": batch}
                for side in SIDES:
                    row[f"{side}_images_per_second"] = round(batch / min(times[side]), 3)
                    receive, send = context.Pipe(duplex=False)
                    process = context.Process(target=_peak, args=(side, name, phase, batch, send))
                    process.start()
                    row[f"{side}_mib"] = round(receive.recv())
                    process.join()
                row["ratio"] = round(ratio(times, SIDES[:1], SIDES[1:]), 3)
                row["memory_ratio"] = round(row["convnext_mib"] / row["torchvision_mib"], 3)
                rows.append(row)
                print(json.dumps(row), flush=True)
    return [*rows, cascade(arguments), *pooling(arguments)]


def cascade(arguments: argparse.Namespace) -> dict[str, Any]:
    """Three stages of heads against three times one stage with the same head."""
    torch.manual_seed(0)
    images = torch.randn(1, 3, HEIGHT, WIDTH).contiguous(memory_format=torch.channels_last)
    sizes = torch.tensor([[HEIGHT, WIDTH]])
    sides = {}
    for side, config in {
        "cascade": MaskRCNNConfig(cascade=True, masks=False),
        "one": MaskRCNNConfig(box_convs=4, masks=False),
    }.items():
        model = MaskRCNN(config).eval().to(memory_format=torch.channels_last)
        with torch.no_grad():
            levels, outputs = model.dense(images)
            proposals = [p[:, :4] for p in model.rpn_head.proposals(outputs, sizes)]

        def run(model: MaskRCNN = model, levels: Any = levels[:-1], boxes: Any = proposals) -> None:
            with torch.no_grad():
                model.roi_head.scores(levels, sizes, boxes)

        sides[side] = run
    times = interleaved(sides, rounds=arguments.rounds, seconds=arguments.seconds)
    row = {
        "model": "heads of a cascade, 1000 proposals",
        **{f"{side}_ms": round(1000 * min(t), 1) for side, t in times.items()},
        "ratio": round(3 * ratio(times, ("cascade",), ("one",)), 3),
    }
    print(json.dumps(row), flush=True)
    return row


def pooling(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """RoIAlign on a pyramid against torchvision's kernel, forward and with the gradient."""
    rows = []
    for channels, bins in ((256, 7), (256, 14), (96, 7)):
        torch.manual_seed(0)
        levels = [
            torch.randn(2, channels, HEIGHT // s, WIDTH // s)
            .contiguous(memory_format=torch.channels_last)
            .requires_grad_()
            for s in (4, 8, 16, 32)
        ]
        boxes = torch.rand(512, 4) * torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT]) * 0.6
        boxes[:, 2:] = boxes[:, :2] + 8 + boxes[:, 2:] * 0.6
        rois = with_image([boxes, boxes])
        reader = MultiScaleRoIAlign(["0", "1", "2", "3"], bins, 0)
        named = {str(i): level for i, level in enumerate(levels)}

        def ours(bins: int = bins, levels: Any = levels, rois: Tensor = rois) -> Tensor:
            return pool(levels, rois, bins)

        def other(reader: Any = reader, named: Any = named, boxes: Tensor = boxes) -> Tensor:
            result: Tensor = reader(named, [boxes, boxes], [(HEIGHT, WIDTH)] * 2)
            return result

        for phase in ("forward", "with gradient"):
            sides = {
                side: (lambda f=f: f().sum().backward()) if phase != "forward" else f
                for side, f in (("convnext", ours), ("torchvision", other))
            }
            times = interleaved(sides, rounds=arguments.rounds, seconds=arguments.seconds)
            row = {"model": f"RoIAlign {bins}x{bins}, 1024 boxes, {channels} channels"}
            row |= {"phase": phase}
            row |= {f"{side}_ms": round(1000 * min(t), 1) for side, t in times.items()}
            row |= {"ratio": round(ratio(times, SIDES[:1], SIDES[1:]), 2)}
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows
