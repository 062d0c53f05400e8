"""Signs that the values of masks mean something else than they are taken for."""

from collections.abc import Sequence

import numpy as np

from convnext.data.segmentation.coding import IGNORE
from convnext.data.segmentation.source import SegmentationSource
from convnext.data.segmentation.survey import training_values
from convnext.data.splits import Finding

_SAMPLE = 200  # masks that tell which values a set has
# A few pictures of ADE20K have dozens of its 150 classes, and value 0 on a tenth of their pixels.
_FEW_VALUES = 20
_MUCH_IGNORED = 0.25
_SHOWN = 8


def find_doubt(source: SegmentationSource, pixels: Sequence[int]) -> Finding | None:
    """What makes training in vain, because classes are ignored that nobody meant to be.

    Args:
        source: the training images.
        pixels: (K + 1,), of each class in their masks and, last, of what is ignored.

    Returns:
        None of sound masks, else "not_ade20k" or "one_class".
    """
    found = _not_ade20k(source, pixels) if source.coding.assumed else None
    present = [name for name, count in zip(source.classes, pixels, strict=False) if count]
    if found is not None or len(present) > 1:
        return found
    occurs = f"only {present[0]!r} occurs" if present else "no class occurs"
    text = f"nothing to tell apart: {occurs} in the training masks"
    return Finding("one_class", text + _ignored(source))


def _ignored(source: SegmentationSource) -> str:
    """Which values count for nothing, and what to do if they are classes; "" of no such value."""
    coding = source.coding
    values = [v for v in _values(source) if coding.values.get(v) == IGNORE]
    if not values or coding.instances:
        return ""
    return (
        f"; {_named(values)} there, and {'is' if len(values) == 1 else 'are'} ignored "
        "(ignore_values, reduce_zero_label). If it is a class, say so in classes.txt, one "
        f'"VALUE NAME" a line: "{values[-1]} NAME"; or set masks = instances, where all values '
        "above 0 are one class"
    )


def _not_ade20k(source: SegmentationSource, pixels: Sequence[int]) -> Finding | None:
    values = _values(source)
    strange = [v for v in values if v and source.coding.values.get(v) == IGNORE]
    share = pixels[-1] / max(sum(pixels), 1)
    few = len(values) <= _FEW_VALUES and share > _MUCH_IGNORED
    if 0 not in values or not (strange or few):
        return None
    text = (
        "the folders are called like those of ADE20K, where value 0 of a mask is ignored, but "
        f"the masks do not look like its own: {_named(values)}, and {100 * share:.0f} % of the "
        "pixels would be ignored. If value 0 is a class, name the classes in classes.txt, one "
        '"VALUE NAME" a line ("0 NAME" first); if it is not, set reduce_zero_label = yes'
    )
    return Finding("not_ade20k", text)


def _values(source: SegmentationSource) -> tuple[int, ...]:
    """The values in the masks, or in a sample of many; () of masks in colours."""
    if source.coding.colours:
        return ()
    rows = np.unique(np.linspace(0, len(source) - 1, min(len(source), _SAMPLE)).astype(np.int64))
    try:
        return training_values(source.subset(rows))
    except ValueError:  # a mask in colours, which is reported by itself
        return ()


def _named(values: Sequence[int]) -> str:
    shown = ", ".join(map(str, values[:_SHOWN]))
    more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    one = len(values) == 1
    return f"value{'' if one else 's'} {shown}{more} {'occurs' if one else 'occur'}"
