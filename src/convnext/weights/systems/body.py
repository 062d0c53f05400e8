"""The network below a system, and the name and the configuration of the whole."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import nn

from convnext.models.backbone import BackboneConfig
from convnext.models.registry import build_model, model_config
from convnext.weights.architecture import same_network, stored_fields
from convnext.weights.systems.system import C, M, P, System
from convnext.weights.timm_backbone import TIMM, TimmBackbone

__all__ = ["body_fields", "build_system", "stored_system", "system_name"]


def build_system(system: System[C, M, P], config: C, body: Mapping[str, Any] | None = None) -> M:
    """A system with new weights.

    Args:
        system: its kind.
        config: its settings; the backbone may be "timm:" and timm's name of a network.
        body: fields of the body's configuration where they are not those of the named network.

    Raises:
        ValueError: there is no such network, or it has not four maps of strides 4 to 32.
    """
    name = config.backbone
    if name.startswith(TIMM):
        timm = TimmBackbone(
            name.removeprefix(TIMM),
            in_chans=config.in_chans,
            drop_path_rate=config.drop_path_rate,
        )
        return system.network(config, timm)
    network = build_model(
        name,
        num_classes=0,
        in_chans=config.in_chans,
        drop_path_rate=config.drop_path_rate,
        features_only=True,
        **(body or {}),
    )
    return system.network(config, network)


def system_name(
    system: System[C, M, P], config: C, body: BackboneConfig | None = None
) -> str | None:
    """The name of a system with these parts; None if its widths or its body have none.

    Args:
        system: its kind.
        config: its settings.
        body: configuration of its body, to be compared with the named network's.
    """
    name = system.name_of(config)
    usual = system.named(name) if config.backbone.startswith(TIMM) else system.known.get(name)
    if usual is None or any(getattr(config, w) != getattr(usual, w) for w in system.widths):
        return None
    if body is not None and not same_network(model_config(config.backbone), body):
        return None
    return name


def stored_system(model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What of a system's configuration belongs to its weights, and of its body's."""
    config = dataclasses.asdict(model.config)
    config = {k: v for k, v in config.items() if k != "drop_path_rate"}
    return config, body_fields(model.backbone.body)


def body_fields(body: nn.Module) -> dict[str, Any]:
    """Fields of a body's configuration; none of a network of another library."""
    config = getattr(body, "config", None)
    return dict(stored_fields(config)) if isinstance(config, BackboneConfig) else {}
