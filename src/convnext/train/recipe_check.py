"""Does the recipe of a resumed run agree with the one it was started with?"""

import json
from collections.abc import Iterator
from typing import Any

HARMLESS = frozenset(
    {
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
"""Fields (by their last name) that change neither the data order nor the mathematics of a step."""


def plain(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe as JSON knows it, so that tuples compare equal to the lists read back."""
    result: dict[str, Any] = json.loads(json.dumps(recipe, default=str))
    return result


def refuse_other_recipe(saved: dict[str, Any], now: dict[str, Any]) -> None:
    """Compare two recipes in `plain` form.

    Raises:
        ValueError: naming each field that differs and is not harmless.
    """
    before, after = dict(_flat(saved)), dict(_flat(now))
    changes = [
        f"{name} was {before.get(name, 'absent')}, is {after.get(name, 'absent')}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name) and name.rsplit(".", 1)[-1] not in HARMLESS
    ]
    if changes:
        raise ValueError(
            f"this run was started with another recipe ({'; '.join(changes)}): "
            "take the same values to resume it, or another run folder to start anew"
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
