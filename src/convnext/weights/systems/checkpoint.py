"""What a file or folder says about a system, in our terms."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from convnext.models.backbone import BackboneConfig
from convnext.models.registry import is_model, model_config
from convnext.weights.architecture import (
    base_name,
    described,
    infer_config,
    model_name,
    stored_fields,
)
from convnext.weights.checkpoint import Opened, told_by_tensors
from convnext.weights.layouts.layout import Converted, Layout, StateDict
from convnext.weights.systems.card import SystemCard, read_card
from convnext.weights.systems.layout import BODY, split, to_system
from convnext.weights.systems.system import C, M, P, System
from convnext.weights.timm_backbone import TIMM

__all__ = ["SystemCheckpoint", "to_system_checkpoint"]


@dataclass(frozen=True)
class SystemCheckpoint(Generic[C, P]):
    """Weights of a system under our names, and where they come from.

    Attributes:
        path: the file that holds the tensors.
        layout: layout that it, or its body, had.
        wrappers: what was around the state dict.
        extra: entries beside it.
        converted: tensors under our names, with what was reshaped, dropped or not known.
        config: the system that they fit.
        body: configuration of its body; None if it is a network of timm.
        name: name of the body in the registry, or None.
        card: what the file says about itself.
    """

    path: Path
    layout: Layout
    wrappers: tuple[str, ...]
    extra: tuple[str, ...]
    converted: Converted
    config: C
    body: BackboneConfig | None
    name: str | None
    card: SystemCard[P]

    @property
    def state(self) -> StateDict:
        """Tensors under our names."""
        return self.converted.state

    @property
    def body_fields(self) -> dict[str, Any]:
        """What `build_system` needs to know about the body besides its name."""
        return dict(stored_fields(self.body)) if self.body is not None else {}


def to_system_checkpoint(
    system: System[C, M, P], opened: Opened, told: Mapping[str, Any] | None = None
) -> SystemCheckpoint[C, P]:
    """What an opened file says about a system, in our terms.

    Args:
        system: the kind of system that it should hold.
        opened: the file.
        told: fields of a configuration, for what neither shapes nor the file tell.

    Raises:
        ValueError: it is no such system of this package; the message names the file.
    """
    file = opened.file
    _check_kind(system, opened)
    card = read_card(system, opened)
    try:
        backbone = str(card.config.get("backbone", ""))
        known = not backbone.startswith(TIMM) and (
            not is_model(backbone) or told_by_tensors(model_config(backbone))
        )
        layout, converted = to_system(
            system, split(system, opened.unwrapped.state), known_body=known
        )
        body = _told(converted.state, card) if known else _stored(backbone, card)
        name = (model_name(body) if body is not None else None) if known else backbone
        config = system.infer(
            converted.state,
            name or _built_from(body, backbone),
            body.in_chans if body is not None else _stored_chans(card),
            {**(told or {}), **card.config},
        )
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: {error}") from error
    return SystemCheckpoint(
        path=file,
        layout=layout,
        wrappers=opened.unwrapped.wrappers,
        extra=opened.unwrapped.extra,
        converted=converted,
        config=config,
        body=body,
        name=name,
        card=card,
    )


def _check_kind(system: System[C, M, P], opened: Opened) -> None:
    """Refuse what is no such system.

    Raises:
        ValueError: the file holds a classifier, or another kind of system.
    """
    kind, found = system.kind, opened.kind
    if found == kind:
        return
    if found is not None:
        raise ValueError(
            f"{opened.file} holds a {found.word}, not a {kind.word}; load it by "
            f"convnext.{found.loader}, or start from its backbone by load_backbone_weights"
        )
    heads = " nor ".join(head.removesuffix(".") for head in kind.heads[:2])
    raise ValueError(
        f"{opened.file} holds no {kind.word}: it has neither {heads}. To start a {kind.word} "
        "from a classifier or an encoder, use load_backbone_weights (--pretrained)"
    )


def _told(state: StateDict, card: SystemCard[P]) -> BackboneConfig:
    """Configuration of a body that its tensors tell, in the words of its card."""
    body = {k.removeprefix(BODY): v for k, v in state.items() if k.startswith(BODY)}
    inferred = infer_config(body)
    name = model_name(inferred)
    usual = described(inferred, stored_fields(model_config(name)) if name else {})
    starts = ("head_init_scale", "layer_scale_init_value")
    changes = {k: v for k, v in card.body.items() if k in starts and bool(getattr(usual, k, None))}
    return described(dataclasses.replace(usual, **changes), card.body)


def _stored(name: str, card: SystemCard[P]) -> BackboneConfig | None:
    """Configuration of a body that only its card tells; None of a network of timm."""
    if name.startswith(TIMM):
        return None
    usual: BackboneConfig = model_config(name)
    return dataclasses.replace(usual, **card.body, in_chans=_stored_chans(card))


def _stored_chans(card: SystemCard[P]) -> int:
    return int(card.config.get("in_chans", 3))


def _built_from(body: BackboneConfig | None, stored: str) -> str:
    """Name of a network of the same kind, for a body that has no name of its own."""
    assert body is not None, "networks of timm have a name"
    same_kind = is_model(stored) and type(model_config(stored)) is type(body)
    return stored if same_kind else base_name(body)
