"""Does the recipe of a resumed run agree with the one it was started with?"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from convnext.train.config import OptimConfig, TrainConfig

HARMLESS = frozenset(
    {
        "path",
        "workers",
        "device",
        "compile",
        "channels_last",
        "deterministic",
        "micro_batch",
        "parallel",
        "checkpoint_every_steps",
        "keep_checkpoints",
        "eval_every_epochs",
        "log_every_steps",
    }
)
"""Fields (by their last name) that change neither the data order nor the mathematics of a step.

The path of the data is one, since jobs copy data to scratch folders; its size is compared.
"""


def plain(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe as JSON knows it, so that tuples compare equal to the lists read back."""
    result: dict[str, Any] = json.loads(json.dumps(recipe, default=str))
    return result


def refuse_other_recipe(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Compare two recipes in `plain` form.

    Returns:
        The harmless changes, one sentence each.

    Raises:
        ValueError: naming each field that differs and is not harmless.
    """
    before, after = _meaningful(saved), _meaningful(now)
    changes = {
        name: f"{name} was {before.get(name, 'absent')}, is {after.get(name, 'absent')}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    }
    harmless = [changes.pop(name) for name in list(changes) if name.split(".")[-1] in HARMLESS]
    if changes:
        raise ValueError(
            f"this run was started with another recipe ({'; '.join(changes.values())}): "
            "take the same values to resume it, or another run folder to start anew"
        )
    return harmless


def _meaningful(recipe: dict[str, Any]) -> dict[str, Any]:
    """Fields by their full name, without those that only a sparse run reads in a dense one.

    An absent field has its default: so a run that began before there was the field continues.
    """
    defaults = {"optim": asdict(OptimConfig()), "train": asdict(TrainConfig())}
    fields = dict(_flat(plain({k: v for k, v in defaults.items() if k in recipe})))
    fields |= dict(_flat(recipe))
    sparse = fields.get("optim.sparsity.sparsity", 0) > 0
    return {n: v for n, v in fields.items() if sparse or not n.startswith("optim.sparsity.")}


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
