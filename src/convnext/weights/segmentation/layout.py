"""Layouts of segmentation networks, see `convnext.weights.systems.layout`."""

from collections.abc import Mapping

from torch import Tensor

from convnext.models.backbone import BackboneConfig
from convnext.weights.layouts.layout import Converted, Layout, StateDict
from convnext.weights.segmentation.heads import SEGMENTER_LAYOUTS
from convnext.weights.segmentation.system import SYSTEM
from convnext.weights.systems.layout import from_system, split, to_system

__all__ = ["SEGMENTER_LAYOUTS", "from_segmenter", "to_segmenter"]


def to_segmenter(state: Mapping[str, Tensor]) -> tuple[Layout, Converted]:
    """Find the layout of a segmentation network and translate it to our names.

    Raises:
        ValueError: the body is of no known layout.
    """
    return to_system(SYSTEM, split(SYSTEM, state))


def from_segmenter(
    state: Mapping[str, Tensor], layout: str, config: BackboneConfig | None = None
) -> StateDict:
    """Translate a segmentation network to one of `SEGMENTER_LAYOUTS`, see `from_system`.

    The layout smp has no auxiliary head: it is left out.
    """
    return from_system(SYSTEM, state, layout, config)
