"""Starting a system from weights of the network below it."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from convnext.models.backbone import Backbone
from convnext.models.registry import is_model
from convnext.weights.adapting import adapt
from convnext.weights.architecture import is_merged, same_network
from convnext.weights.checkpoint import Opened, open_weights, to_checkpoint
from convnext.weights.layouts.layout import StateDict
from convnext.weights.load_report import LoadReport, load_state
from convnext.weights.sources import resolve
from convnext.weights.systems.checkpoint import to_system_checkpoint
from convnext.weights.systems.layout import norm_name
from convnext.weights.systems.system import system_of
from convnext.weights.timm_backbone import TIMM, TimmBackbone

__all__ = ["load_backbone_weights"]

NORMS = {f"norm{i}.{leaf}" for i in range(4) for leaf in ("weight", "bias")}


def load_backbone_weights(
    model: nn.Module, source: str | Path | bool, *, ema: bool = True, allow: Iterable[str] = ()
) -> LoadReport:
    """Load the body of a detector or a segmentation network; all above it stays as it is.

    Last norm and head of a classifier are left out. Norms of the maps come along where the file has
    all four of them (another system's, a transformers backbone's); else they stay as they are.

    Args:
        model: it is changed.
        source: weights of a classifier, an encoder of masked pre-training, a backbone, a detector
            or a segmentation network: a file, a folder, a URL, ``"MODEL.TAG"`` or a tag of the
            body, or True for its published weights. For a network of timm only True, timm's own.
        ema: take averaged weights where a checkpoint has both.
        allow: names in `model.backbone`, or shell-style patterns of names, of tensors that may be
            missing, unexpected or of another shape.

    Raises:
        ValueError: the weights are of another network; says which.
        OSError: a file cannot be read, or there is no network.
    """
    system: Any = model
    body, name = system.backbone.body, system.config.backbone
    if isinstance(body, TimmBackbone):
        return _load_timm(system.config, body, source)
    assert isinstance(body, Backbone), "bodies are networks of this package or of timm"
    found = resolve(source, name if is_model(name) else None)
    opened = open_weights(found.path, ema=ema)
    report = LoadReport(wrappers=opened.unwrapped.wrappers)
    state, norms = _read(opened, body, found.text, report)
    whole = {f"body.{key}": tensor for key, tensor in state.items()} | norms
    allowed = [*allow, *(() if norms else NORMS)]
    load_state(system.backbone, whole, report, source=found.text, allow=allowed)
    report.missing = [key for key in report.missing if norms or key not in NORMS]
    report.adapted.append(f"norms of the maps {'come from the file' if norms else 'stay'}")
    return report


def _read(
    opened: Opened, body: Backbone, source: str, report: LoadReport
) -> tuple[StateDict, StateDict]:
    """Tensors of the body, and of all four norms or of none."""
    if opened.kind is not None:
        system = to_system_checkpoint(system_of(opened.kind), opened)
        state = {
            key.removeprefix("backbone."): tensor
            for key, tensor in system.state.items()
            if key.startswith("backbone.")
        }
        norms = {key: tensor for key, tensor in state.items() if key in NORMS}
        tensors = {
            key.removeprefix("body."): tensor for key, tensor in state.items() if key not in NORMS
        }
        report.layout, config = system.layout.title, system.body
        name, unexpected = system.name, []
        report.adapted += [*system.converted.done, "neck and heads left out"]
    else:
        rest, norms = _without_norms(opened.unwrapped.state)
        unwrapped = dataclasses.replace(opened.unwrapped, state=rest)
        checkpoint = to_checkpoint(dataclasses.replace(opened, unwrapped=unwrapped))
        tensors, config, name = checkpoint.state, checkpoint.config, checkpoint.name
        report.layout, unexpected = checkpoint.layout.title, checkpoint.converted.unexpected
        report.reshaped = dict(checkpoint.converted.reshaped)
        report.dropped = list(checkpoint.converted.dropped)
        report.adapted += checkpoint.converted.done
    if config is None or not same_network(config, body.config):
        raise ValueError(
            f"{source} holds weights of {name or 'another network'}, not of the backbone here; "
            "build the system on that network, or take other weights"
        )
    if is_merged(config) != is_merged(body.config):
        raise ValueError(f"{source} and the backbone must both be merged, or neither")
    adapted = adapt(tensors, body)
    report.adapted += adapted.done
    report.unexpected += unexpected
    return adapted.state, norms if norms.keys() == NORMS else {}


def _without_norms(state: StateDict) -> tuple[StateDict, dict[str, Tensor]]:
    """Split off norms of maps, if all four are there: a classifier may number its last one."""
    names = {key: norm_name(f"backbone.{key.removeprefix('backbone.')}") for key in state}
    norms = {name: state[key] for key, name in names.items() if name is not None}
    if norms.keys() != NORMS:
        return state, {}
    return {key: tensor for key, tensor in state.items() if names[key] is None}, norms


def _load_timm(config: Any, body: TimmBackbone, source: str | Path | bool) -> LoadReport:
    if source is not True:
        raise ValueError(
            f"weights of {TIMM}{body.name} come from timm; give True instead of {source}"
        )
    new = TimmBackbone(
        body.name,
        in_chans=config.in_chans,
        drop_path_rate=config.drop_path_rate,
        pretrained=True,
    )
    report = LoadReport(layout="timm")
    load_state(body, new.state_dict(), report, source=f"{TIMM}{body.name}")
    return report
