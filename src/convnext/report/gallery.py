"""Galleries: picture and class activation map side by side, with true and predicted class."""

import base64
from collections.abc import Sequence

from convnext.report.data import Example
from convnext.report.text import esc, percent

_SIGNATURES = ((b"\x89PNG", "png"), (b"\xff\xd8", "jpeg"), (b"RIFF", "webp"))


def gallery(examples: Sequence[Example]) -> str:
    """Cards of examples; empty text without any."""
    cards = "".join(_card(example) for example in examples)
    return f'<div class="gallery">{cards}</div>' if cards else ""


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
