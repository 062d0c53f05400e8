"""The kinds of systems on a backbone, told by the names of their tensors."""

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["DETECTOR", "KINDS", "SEGMENTER", "Kind", "kind_of"]


@dataclass(frozen=True)
class Kind:
    """A kind of system.

    Attributes:
        task: the task, as the section of config.json says it, and the room with its code.
        word: what one is called.
        loader: the function that loads one.
        heads: beginnings of names of tensors that only such systems have, in all layouts.
    """

    task: str
    word: str
    loader: str
    heads: tuple[str, ...]


DETECTOR = Kind("detection", "detector", "load_detector", ("rpn_head.", "roi_head."))
SEGMENTER = Kind(
    "segmentation",
    "segmentation network",
    "load_segmenter",
    ("decode_head.", "auxiliary_head.", "segmentation_head."),
)
KINDS = (DETECTOR, SEGMENTER)


def kind_of(names: Iterable[str]) -> Kind | None:
    """The kind of system that has tensors of these names; None of a network that classifies."""
    names = tuple(names)
    return next((kind for kind in KINDS if any(n.startswith(kind.heads) for n in names)), None)
