"""Layouts of detectors: names of the body by one of the key tables, the rest as published.

    body    backbone.body.stages.0.blocks.0.gamma    backbone. and the name in their layout
    norms   backbone.norm0.weight                    the same; with a backbone of transformers
                                                     backbone.hidden_states_norms.stage1.weight
    heads   neck. rpn_head. roi_head.                the same

Source: facebookresearch/ConvNeXt, object_detection, and OpenMMLab's mmdetection: names of the state
dicts of their detectors; transformers, ConvNextBackbone.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from convnext.models.backbone import BackboneConfig
from convnext.models.convnext import ConvNeXtConfig
from convnext.models.large_kernel import RepLKNetConfig
from convnext.models.registry import unknown
from convnext.weights.checkpoint import is_convnext
from convnext.weights.layouts.layout import Converted, Layout, StateDict
from convnext.weights.layouts.openmmlab import OPENMMLAB_BODY
from convnext.weights.layouts.ours import OTHER_NETWORK
from convnext.weights.layouts.table import from_convnext, to_convnext
from convnext.weights.layouts.timm import TIMM_FEATURES
from convnext.weights.layouts.transformers import MAP_NORMS, TRANSFORMERS_BARE

__all__ = ["BODY", "DETECTOR_LAYOUTS", "Parts", "from_detector", "split", "to_detector"]

BODY = "backbone.body."
HEADS = ("neck.", "rpn_head.", "roi_head.")
DETECTOR_LAYOUTS = ("convnext", "official", "timm", "transformers", "openmmlab")
# What other code puts between "backbone." and the names of the body.
_BETWEEN = ("body.", "timm_model.", "model.")
_AVERAGES = "ema_"  # older OpenMMLab files hold averaged weights twice, with dots as underscores
_NORM = re.compile(rf"(?:norm([0-3])|{re.escape(MAP_NORMS)}stage([1-4]))\.(weight|bias)")


@dataclass
class Parts:
    """A state dict of a detector in pieces.

    Attributes:
        body: tensors of the body, without "backbone.".
        norms: of the norms of its maps, under our names without "backbone.".
        heads: all others of a detector, under their names, which are ours too.
        between: what stood between "backbone." and the names of the body.
        dropped: names that no detector needs.
        unexpected: names that do not belong to a detector.
    """

    body: StateDict = field(default_factory=dict)
    norms: StateDict = field(default_factory=dict)
    heads: StateDict = field(default_factory=dict)
    between: str = ""
    dropped: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)


def split(state: Mapping[str, Tensor]) -> Parts:
    """Take a state dict of a detector of any layout into pieces."""
    parts = Parts()
    for key, tensor in state.items():
        name = key.removeprefix("backbone.")
        if key.startswith(HEADS):
            parts.heads[key] = tensor
        elif name == key:
            (parts.dropped if key.startswith(_AVERAGES) else parts.unexpected).append(key)
        elif norm := norm_name(name):
            parts.norms[norm] = tensor
        else:
            parts.body[name] = tensor
    between = (p for p in _BETWEEN if all(name.startswith(p) for name in parts.body))
    parts.between = next(between, "") if parts.body else ""
    parts.body = {k.removeprefix(parts.between): v for k, v in parts.body.items()}
    return parts


def norm_name(name: str) -> str | None:
    """Our name of a norm of one of the four maps; None if it is not that of one."""
    found = _NORM.fullmatch(name)
    if found is None:
        return None
    number = int(found[1]) if found[1] else int(found[2]) - 1
    return f"norm{number}.{found[3]}"


def to_detector(parts: Parts, *, known_body: bool = True) -> tuple[Layout, Converted]:
    """Translate the pieces of a detector to our names.

    Args:
        parts: of a state dict.
        known_body: whether the body is a network with key tables; else its names are ours.

    Raises:
        ValueError: the body is of no known layout.
    """
    layout, converted = OTHER_NETWORK, Converted(dict(parts.body))
    if known_body:
        try:
            layout, converted = to_convnext(parts.body)
        except ValueError as error:
            raise ValueError(f"the backbone of this detector: {error}") from error
    reads = f"backbone.{parts.between}"
    result = Converted(
        state={f"{BODY}{name}": tensor for name, tensor in converted.state.items()},
        reshaped={f"{reads}{name}": shapes for name, shapes in converted.reshaped.items()},
        dropped=[f"{reads}{name}" for name in converted.dropped] + parts.dropped,
        unexpected=[f"{reads}{name}" for name in converted.unexpected] + parts.unexpected,
        done=converted.done,
    )
    result.state |= {f"backbone.{name}": tensor for name, tensor in parts.norms.items()}
    result.state |= parts.heads
    return layout, result


def from_detector(
    state: Mapping[str, Tensor], layout: str, config: BackboneConfig | None = None
) -> StateDict:
    """Translate a detector's state dict to another layout.

    Args:
        state: tensors under our names.
        layout: one of `DETECTOR_LAYOUTS`.
        config: of the body; None of a network of another library.

    Raises:
        ValueError: unknown layout, or one that cannot express this body.
    """
    if layout not in DETECTOR_LAYOUTS:
        raise unknown("layout of a detector", layout, DETECTOR_LAYOUTS)
    if layout == "convnext":
        return {name: tensor.contiguous() for name, tensor in state.items()}
    if config is None:
        raise ValueError(f"the layout {layout} has no body of another library; use 'convnext'")
    parts = split(state)
    body = {f"backbone.{k}": v for k, v in _body(parts.body, layout, config).items()}
    norms = {f"backbone.{_their_norm(k, layout)}": v for k, v in parts.norms.items()}
    return body | norms | {name: tensor.contiguous() for name, tensor in parts.heads.items()}


def _body(state: StateDict, layout: str, config: BackboneConfig) -> StateDict:
    if layout == "official":
        if not isinstance(config, ConvNeXtConfig | RepLKNetConfig):
            raise ValueError("the layout official has no detector with this body; use 'convnext'")
        return from_convnext(state, layout)
    if not (is_convnext(config) and isinstance(config, ConvNeXtConfig)):
        raise ValueError(
            f"the layout {layout} has no detector with this body; use 'official' or 'convnext'"
        )
    if layout == "transformers" and config.grn and config.layer_scale_init_value > 0:
        raise ValueError("the layout transformers has no network with both GRN and layer scale")
    tables = {
        "timm": TIMM_FEATURES,
        "transformers": TRANSFORMERS_BARE,
        "openmmlab": OPENMMLAB_BODY,
    }
    return tables[layout].write(state)


def _their_norm(name: str, layout: str) -> str:
    if layout != "transformers":
        return name
    norm, leaf = name.split(".")
    return f"{MAP_NORMS}stage{int(norm.removeprefix('norm')) + 1}.{leaf}"
