"""Which parameter decays, and which learning rate it gets."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch


def build_param_groups(
    named_parameters: Iterable[tuple[str, torch.nn.Parameter]],
    *,
    weight_decay: float,
    no_decay: tuple[str, ...] = (".bias",),
    layer_ids: Mapping[str, int] | None = None,
    num_layers: int = 0,
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Put every trainable parameter into exactly one optimiser group.

    A parameter does not decay if it has at most one dimension (norms, layer scale) or its name
    ends with one of `no_decay`. A layer's learning rate is the base times
    lr_scale = layer_decay ** (num_layers + 1 - id).

    Args:
        named_parameters: (name, parameter) pairs; frozen parameters are left out.
        weight_decay: decay of the groups that decay.
        no_decay: endings of further names that do not decay.
        layer_ids: name -> layer id, 0..num_layers + 1; needed when layer_decay is not 1.
        num_layers: number of layers between stem and head.
        layer_decay: factor from one layer to the one below.

    Returns:
        Groups in the order in which their first parameter appears, each with "params",
        "name" ("layer_{id}_{decay|no_decay}", without a layer decay "decay" or "no_decay"),
        "weight_decay" and "lr_scale".

    Raises:
        ValueError: a parameter named twice, without a layer id or with one out of range, a layer
            id without a parameter, or nothing to train.

    Source: ConvNeXt, appendix A.1 (layer-wise decay after BEiT).
    """
    use_layers = layer_decay != 1.0
    if use_layers and layer_ids is None:
        raise ValueError(f"layer_decay={layer_decay} needs the layer of every parameter")
    groups: dict[str, dict[str, Any]] = {}
    names: set[str] = set()
    seen: dict[int, str] = {}
    for name, parameter in named_parameters:
        names.add(name)
        if id(parameter) in seen:
            raise ValueError(f"parameter {name} is also {seen[id(parameter)]}: it would step twice")
        seen[id(parameter)] = name
        if not parameter.requires_grad:
            continue
        decays = parameter.ndim > 1 and not name.endswith(no_decay)
        label, lr_scale = "decay" if decays else "no_decay", 1.0
        if use_layers and layer_ids is not None:
            layer = _layer_of(name, layer_ids, num_layers)
            label, lr_scale = f"layer_{layer}_{label}", layer_decay ** (num_layers + 1 - layer)
        group = groups.setdefault(
            label,
            {
                "params": [],
                "name": label,
                "weight_decay": weight_decay if decays else 0.0,
                "lr_scale": lr_scale,
            },
        )
        group["params"].append(parameter)
    if unknown := sorted(set(layer_ids or ()) - names):
        raise ValueError(f"layer ids without a parameter: {', '.join(unknown[:5])}")
    if not groups:
        raise ValueError("every parameter is frozen: there is nothing to train")
    return list(groups.values())


def check_complete(groups: list[dict[str, Any]], module: torch.nn.Module) -> None:
    """Check that the groups hold every trainable parameter of a module exactly once.

    Raises:
        ValueError: naming the parameters that are missing, foreign or there twice.
    """
    names = {id(p): name for name, p in module.named_parameters()}
    counts = {id(p): 0 for p in module.parameters() if p.requires_grad}
    for group in groups:
        for parameter in group["params"]:
            counts[id(parameter)] = counts.get(id(parameter), 0) + 1
    wrong = [
        f"{names.get(key, 'a foreign tensor')} ({count} times)"
        for key, count in counts.items()
        if count != 1
    ]
    if wrong:
        raise ValueError(f"parameter groups must hold each parameter once: {', '.join(wrong[:5])}")


def _layer_of(name: str, layer_ids: Mapping[str, int], num_layers: int) -> int:
    if name not in layer_ids:
        raise ValueError(f"parameter {name} has no layer id")
    layer = layer_ids[name]
    if not 0 <= layer <= num_layers + 1:
        raise ValueError(f"parameter {name} has layer id {layer}, not in 0..{num_layers + 1}")
    return layer
