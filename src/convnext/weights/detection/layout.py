"""Layouts of detectors, see `convnext.weights.systems.layout`; names of heads are the published."""

from collections.abc import Mapping

from torch import Tensor

from convnext.models.backbone import BackboneConfig
from convnext.weights.detection.system import DETECTOR_LAYOUTS, SYSTEM
from convnext.weights.layouts.layout import Converted, Layout, StateDict
from convnext.weights.systems import layout as systems
from convnext.weights.systems.layout import BODY, Parts

__all__ = ["BODY", "DETECTOR_LAYOUTS", "Parts", "from_detector", "split", "to_detector"]


def split(state: Mapping[str, Tensor]) -> Parts:
    """Take a state dict of a detector of any layout into pieces."""
    return systems.split(SYSTEM, state)


def to_detector(parts: Parts, *, known_body: bool = True) -> tuple[Layout, Converted]:
    """Translate the pieces of a detector to our names, see `to_system`."""
    return systems.to_system(SYSTEM, parts, known_body=known_body)


def from_detector(
    state: Mapping[str, Tensor], layout: str, config: BackboneConfig | None = None
) -> StateDict:
    """Translate a detector's state dict to one of `DETECTOR_LAYOUTS`, see `from_system`."""
    return systems.from_system(SYSTEM, state, layout, config)
