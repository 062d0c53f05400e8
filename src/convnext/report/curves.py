"""Learning curves: loss, top-1, AP or mIoU, and learning rate over the optimiser steps."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from convnext.report.svg import Frame, axes, nice_ticks, padded, picture, polyline
from convnext.report.text import esc

Points = list[tuple[float, float]]
MAX_POINTS = 300
# Parts of the loss of a detector or segmenter; those of a cascade's stages are added up.
LOSS_PARTS = {
    "loss_rpn_cls": "proposals, objectness",
    "loss_rpn_bbox": "proposals, place",
    "loss_cls": "classes",
    "loss_bbox": "boxes",
    "loss_mask": "masks",
    "decode.loss_seg": "main head",
    "aux.loss_seg": "auxiliary head",
    "decode.loss_dice": "main head, Dice",
    "aux.loss_dice": "auxiliary head, Dice",
}


def curves(history: Sequence[Mapping[str, Any]]) -> str:
    """Panels of all curves that the history holds; empty text without any.

    Averaged (EMA) weights are drawn as the main validation line, the raw ones dashed beside it.
    """
    train = [line for line in history if line.get("kind") == "train"]
    evals = [line for line in history if line.get("kind") == "eval"]
    averaged = [line for line in evals if line.get("weights") == "ema"]
    raw = [line for line in evals if line.get("weights") != "ema"]
    main, other = (averaged, raw) if averaged else (raw, [])
    validation = "validation, averaged weights" if averaged else "validation"
    unaveraged = "raw weights"
    panels = [
        _panel(
            "Loss",
            "" if has_objects(history) or has_pixels(history) else "nats",
            [
                ("training", "c-train", series(train, "loss")),
                (unaveraged, "c-raw", series(other, "loss")),
                (validation, "c-val", series(main, "loss")),
            ],
        ),
        _panel("Parts of the loss", "", _loss_parts(train), from_zero=True),
        _panel(
            "Top-1 accuracy",
            "%",
            [
                (unaveraged, "c-raw", series(other, "top1")),
                (validation, "c-val", series(main, "top1")),
            ],
            mark_best=True,
        ),
        _panel(
            "AP",
            validation,
            [
                ("boxes, IoU .50", "c-train", series(main, "ap50")),
                ("masks", "c-mask", series(main, "mask_ap")),
                (f"boxes, {unaveraged}", "c-raw", series(other, "ap")),
                ("boxes", "c-val", series(main, "ap")),
            ],
            mark_best=True,
        ),
        _panel(
            "Pixels",
            f"%, {validation}",
            [
                ("right", "c-train", series(main, "pixel_accuracy")),
                ("mean accuracy of the classes", "c-mask", series(main, "mean_accuracy")),
                (f"mIoU, {unaveraged}", "c-raw", series(other, "miou")),
                ("mIoU", "c-val", series(main, "miou")),
            ],
            mark_best=True,
        ),
        _panel("Learning rate", "", [("", "c-train", series(train, "lr"))], from_zero=True),
    ]
    drawn = "".join(panels)
    return f'<div class="panels">{drawn}</div>' if drawn else ""


def has_objects(history: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a history is that of a detector."""
    return any("ap" in line or "loss_rpn_cls" in line for line in history)


def has_pixels(history: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a history is that of a segmenter."""
    return any("miou" in line or "decode.loss_seg" in line for line in history)


def _loss_parts(train: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, Points]]:
    """A line for each part of the loss of a detector or segmenter; none of other tasks."""
    if not (has_objects(train) or has_pixels(train)):
        return []
    sums: list[dict[str, Any]] = []
    for line in train:
        parts: dict[str, Any] = {"step": line.get("step")}
        for name, value in line.items():
            part = name if name in LOSS_PARTS else name.rpartition(".")[2]
            if part in LOSS_PARTS:
                parts[part] = parts.get(part, 0.0) + value
        sums.append(parts)
    there = [part for part in LOSS_PARTS if any(part in line for line in sums)]
    if len(there) < 2:  # then it is the loss itself
        return []
    return [
        (LOSS_PARTS[part], f"series k{number}", series(sums, part))
        for number, part in enumerate(there)
    ]


def series(lines: Sequence[Mapping[str, Any]], key: str) -> Points:
    """Finite (step, value) pairs in order of steps, long ones averaged to 300 points."""
    points = sorted(
        (float(line["step"]), float(line[key]))
        for line in lines
        if isinstance(line.get(key), int | float)
        and isinstance(line.get("step"), int | float)
        and math.isfinite(line[key])
    )
    size = math.ceil(len(points) / MAX_POINTS)
    if size <= 1:
        return points
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def _panel(
    title: str,
    unit: str,
    lines: list[tuple[str, str, Points]],
    *,
    mark_best: bool = False,
    from_zero: bool = False,
) -> str:
    lines = [line for line in lines if line[2]]
    if not lines:
        return ""
    xs = [x for _, _, points in lines for x, _ in points]
    ys = [y for _, _, points in lines for _, y in points]
    low, high = padded(ys)
    frame = Frame(
        x_range=(0.0, max(xs) or 1.0),
        y_range=(0.0, max(ys) * 1.06 or 1.0) if from_zero else (low, high),
    )
    content = axes(
        frame,
        x_ticks=[tick for tick in nice_ticks(*frame.x_range, 5) if tick.is_integer()],
        y_ticks=nice_ticks(*frame.y_range, 5),
        x_title="optimiser step",
    )
    content += "".join(polyline(frame, points, css) for _, css, points in lines)
    if mark_best:
        content += _best(frame, lines[-1][2])
    legend = "".join(
        f'<span class="key {css}">{esc(name)}</span>' for name, css, _ in lines[::-1] if name
    )
    heading = f"<b>{esc(title)}</b>" + (f'<span class="unit">{esc(unit)}</span>' if unit else "")
    return (
        f"<figure><figcaption>{heading}{legend}</figcaption>"
        f"{picture(frame, f'{title} over the optimiser steps', content)}</figure>"
    )


def _best(frame: Frame, points: Points) -> str:
    x, y = max(points, key=lambda point: (point[1], -point[0]))
    px, py = frame.x(x), frame.y(y)
    anchor = "end" if px > frame.width * 0.7 else "start" if px < frame.width * 0.3 else "middle"
    text_y = py + 20 if py + 20 < frame.height - frame.bottom else py - 9
    return (
        f'<circle class="dot c-val" cx="{px:.1f}" cy="{py:.1f}" r="4"/>'
        f'<text class="note" x="{px:.1f}" y="{text_y:.1f}" text-anchor="{anchor}">'
        f"best {y:.1f}</text>"
    )
