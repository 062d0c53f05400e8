"""Galleries: picture and class activation map side by side, with true and predicted class."""

import base64
from collections.abc import Sequence

from convnext.report.data import DetectionExample, Example, SegmentationExample
from convnext.report.text import chip, esc, percent, shorten

MOST_KEYS, MOST_EMS = 16, 14  # classes of a card, and the length of their names
_SIGNATURES = ((b"\x89PNG", "png"), (b"\xff\xd8", "jpeg"), (b"RIFF", "webp"))


def gallery(examples: Sequence[Example]) -> str:
    """Cards of examples; empty text without any."""
    cards = "".join(_card(example) for example in examples)
    return f'<div class="gallery">{cards}</div>' if cards else ""


def detection_gallery(examples: Sequence[DetectionExample]) -> str:
    """Cards of objects and detections side by side; empty text without any."""
    cards = "".join(_detection_card(example) for example in examples)
    return f'<div class="gallery wide">{cards}</div>' if cards else ""


def _detection_card(example: DetectionExample) -> str:
    name = esc(example.name)
    pair = (
        (f"objects in {example.name}", example.truth),
        (f"found in {example.name}", example.said),
    )
    pictures = "".join(
        f'<img src="{data_uri(image)}" alt="{esc(alt)}" loading="lazy">' for alt, image in pair
    )
    errors = ", ".join(f"{n} {esc(kind)}" for kind, n in example.errors.items() if n)
    return (
        f'<figure class="card"><div class="pair">{pictures}</div><figcaption>'
        f'<div>{errors or "no errors"}</div><div class="file" dir="auto">{name}</div>'
        "</figcaption></figure>"
    )


def segmentation_gallery(examples: Sequence[SegmentationExample]) -> str:
    """Cards of picture, truth and prediction side by side; empty text without any."""
    cards = "".join(_segmentation_card(example) for example in examples)
    return f'<div class="gallery wide">{cards}</div>' if cards else ""


def _segmentation_card(example: SegmentationExample) -> str:
    three = (
        (example.name, example.picture),
        (f"truth of {example.name}", example.truth),
        (f"said of {example.name}", example.said),
    )
    pictures = "".join(
        f'<img src="{data_uri(image)}" alt="{esc(alt)}" loading="lazy">' for alt, image in three
    )
    keys = "".join(
        f"<span>{chip(colour)}{esc(shorten(name, MOST_EMS))} "
        f'<span class="muted">{iou:.0f}</span></span>'
        for name, colour, iou in example.classes[:MOST_KEYS]
    )
    more = len(example.classes) - MOST_KEYS
    keys += f'<span class="muted">and {more} more</span>' if more > 0 else ""
    scores = f"mIoU <b>{percent(example.miou)}</b>, {percent(example.accuracy)} of the pixels right"
    return (
        f'<figure class="card"><div class="pair">{pictures}</div><figcaption>'
        f'<div class="keys">{keys}</div><div>{scores}</div>'
        f'<div class="file" dir="auto">{esc(example.name)}</div></figcaption></figure>'
    )


def data_uri(image: bytes) -> str:
    """PNG, JPEG or WebP bytes as a ``data:`` address."""
    kind = next((kind for start, kind in _SIGNATURES if image.startswith(start)), None)
    assert kind is not None, "a report's pictures are PNG, JPEG or WebP"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"


def _card(example: Example) -> str:
    name = esc(example.name)
    pictures = f'<img src="{data_uri(example.image)}" alt="{name}" loading="lazy">'
    if example.cam:
        alt = f"what spoke for {example.pred} in {example.name}"
        pictures += f'<img src="{data_uri(example.cam)}" alt="{esc(alt)}" loading="lazy">'
    wrong = example.true != example.pred
    kind = "said wrong" if wrong else "said"
    truth = f'<span class="muted">truth</span> <b dir="auto">{esc(example.true)}</b>'
    said = (
        f'<span class="muted">said</span> <b class="{kind}" dir="auto">{esc(example.pred)}</b> '
        f'<span class="muted">{percent(100 * example.confidence)}</span>'
    )
    return (
        f'<figure class="card"><div class="pair">{pictures}</div><figcaption>'
        f'<div>{said}</div><div>{truth}</div><div class="file" dir="auto">{name}</div>'
        "</figcaption></figure>"
    )
