"""Layouts of systems: names of the body by one of the key tables, heads as published or by a table.

    body    backbone.body.stages.0.blocks.0.gamma    backbone. and the name in their layout
    norms   backbone.norm0.weight                    the same; with a backbone of transformers
                                                     backbone.hidden_states_norms.stage1.weight
    heads   neck. rpn_head. decode_head. ...         the same, or by the tables of the system

Source: facebookresearch/ConvNeXt, object_detection and semantic_segmentation, and OpenMMLab's
mmdetection and mmsegmentation: names of the state dicts of their systems; transformers,
ConvNextBackbone; segmentation_models_pytorch.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from convnext.models.backbone import BackboneConfig
from convnext.models.convnext import ConvNeXtConfig
from convnext.models.large_kernel import RepLKNetConfig
from convnext.models.registry import unknown
from convnext.weights.checkpoint import is_convnext
from convnext.weights.folder import timm_architecture
from convnext.weights.layouts.layout import Converted, Layout, StateDict
from convnext.weights.layouts.openmmlab import OPENMMLAB_BODY
from convnext.weights.layouts.ours import OTHER_NETWORK
from convnext.weights.layouts.table import from_convnext, to_convnext, to_timm_shapes
from convnext.weights.layouts.timm import TIMM_FEATURES
from convnext.weights.layouts.transformers import MAP_NORMS, TRANSFORMERS_BARE
from convnext.weights.systems.system import System

__all__ = ["BODY", "SMP", "Parts", "from_system", "norm_name", "split", "to_system"]

BODY = "backbone.body."
SMP = "smp"  # the layout of segmentation_models_pytorch, which has prefixes of its own
_SMP_BODY, _SMP_NORMS = "encoder.model.", "decoder.feature_norms."
# What other code puts between "backbone." and the names of the body.
_BETWEEN = ("body.", "timm_model.", "model.")
_AVERAGES = "ema_"  # older OpenMMLab files hold averaged weights twice, with dots as underscores
_NORM = re.compile(
    rf"(?:backbone\.norm([0-3])|backbone\.{re.escape(MAP_NORMS)}stage([1-4])"
    rf"|{re.escape(_SMP_NORMS)}([0-3]))\.(weight|bias)"
)


@dataclass
class Parts:
    """A state dict of a system in pieces.

    Attributes:
        body: tensors of the body, without what they begin with.
        norms: of the norms of its maps, under our names without "backbone.".
        heads: all others of a system, under their names.
        begin: what the names of the body began with.
        layout: layout that this beginning tells, if it does.
        dropped: names that no system needs.
        unexpected: names that do not belong to the system.
    """

    body: StateDict = field(default_factory=dict)
    norms: StateDict = field(default_factory=dict)
    heads: StateDict = field(default_factory=dict)
    begin: str = "backbone."
    layout: Layout | None = None
    dropped: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)


def split(system: System[Any, Any, Any], state: Mapping[str, Tensor]) -> Parts:
    """Take a state dict of a system of any layout into pieces."""
    parts, names = Parts(), system.names
    for key, tensor in state.items():
        begin = next((begin for begin in names.bodies if key.startswith(begin)), None)
        if norm := norm_name(key):
            parts.norms[norm] = tensor
        elif key.startswith(names.heads):
            parts.heads[key] = tensor
        elif begin is not None:
            parts.begin, parts.layout = begin, names.bodies[begin]
            parts.body[key.removeprefix(begin)] = tensor
        else:
            (parts.dropped if key.startswith(_AVERAGES) else parts.unexpected).append(key)
    between = (p for p in _BETWEEN if all(name.startswith(p) for name in parts.body))
    if parts.body and (found := next(between, "")):
        parts.begin += found
        parts.body = {k.removeprefix(found): v for k, v in parts.body.items()}
    return parts


def norm_name(name: str) -> str | None:
    """Our name of a norm of one of the four maps, without "backbone."; None if it is none."""
    found = _NORM.fullmatch(name)
    if found is None:
        return None
    number = int(found[2]) - 1 if found[2] else int(found[1] or found[3])
    return f"norm{number}.{found[4]}"


def to_system(
    system: System[Any, Any, Any], parts: Parts, *, known_body: bool = True
) -> tuple[Layout, Converted]:
    """Translate the pieces of a system to our names.

    Args:
        system: its kind.
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
            raise ValueError(f"the backbone of this {system.kind.word}: {error}") from error
    heads = system.names.read.read(parts.heads) if system.names.read else Converted(parts.heads)
    begin = parts.begin
    result = Converted(
        state={f"{BODY}{name}": tensor for name, tensor in converted.state.items()},
        reshaped={f"{begin}{name}": shapes for name, shapes in converted.reshaped.items()},
        dropped=[f"{begin}{name}" for name in converted.dropped] + parts.dropped,
        unexpected=[f"{begin}{name}" for name in converted.unexpected]
        + heads.unexpected
        + parts.unexpected,
        done=converted.done,
    )
    result.state |= {f"backbone.{name}": tensor for name, tensor in parts.norms.items()}
    result.state |= heads.state
    return parts.layout or layout, result


def from_system(
    system: System[Any, Any, Any],
    state: Mapping[str, Tensor],
    layout: str,
    config: BackboneConfig | None = None,
) -> StateDict:
    """Translate a system's state dict to another layout.

    Args:
        system: its kind.
        state: tensors under our names.
        layout: one of `system.names.layouts`.
        config: of the body; None of a network of another library.

    Raises:
        ValueError: unknown layout, or one that cannot express this body or these heads.
    """
    names, word = system.names, system.kind.word
    if layout not in names.layouts:
        raise unknown(f"layout of a {word}", layout, names.layouts)
    if layout == "convnext":
        return {name: tensor.contiguous() for name, tensor in state.items()}
    if config is None:
        raise ValueError(f"the layout {layout} has no body of another library; use 'convnext'")
    lost = names.lost.get(layout, ())
    parts = split(system, {k: v for k, v in state.items() if not (lost and k.startswith(lost))})
    begin = _SMP_BODY if layout == SMP else "backbone."
    body = {f"{begin}{k}": v for k, v in _body(parts.body, layout, config, word).items()}
    norms = {_their_norm(k, layout): v.contiguous() for k, v in parts.norms.items()}
    heads = {name: tensor.contiguous() for name, tensor in parts.heads.items()}
    if layout in names.write:
        heads = names.write[layout].write(heads)
    return body | norms | heads


def _body(state: StateDict, layout: str, config: BackboneConfig, word: str) -> StateDict:
    if layout == "official":
        if not isinstance(config, ConvNeXtConfig | RepLKNetConfig):
            raise ValueError(f"the layout official has no {word} with this body; use 'convnext'")
        return from_convnext(state, layout)
    if not (is_convnext(config) and isinstance(config, ConvNeXtConfig)):
        raise ValueError(
            f"the layout {layout} has no {word} with this body; use 'official' or 'convnext'"
        )
    if layout == "transformers" and config.grn and config.layer_scale_init_value > 0:
        raise ValueError("the layout transformers has no network with both GRN and layer scale")
    if layout in ("timm", SMP):
        return to_timm_shapes(TIMM_FEATURES.write(state), timm_architecture(config)[0])
    tables = {"transformers": TRANSFORMERS_BARE, "openmmlab": OPENMMLAB_BODY}
    return tables[layout].write(state)


def _their_norm(name: str, layout: str) -> str:
    norm, leaf = name.split(".")
    number = int(norm.removeprefix("norm"))
    if layout == "transformers":
        return f"backbone.{MAP_NORMS}stage{number + 1}.{leaf}"
    if layout == SMP:
        return f"{_SMP_NORMS}{number}.{leaf}"
    return f"backbone.{name}"
