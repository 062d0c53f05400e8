"""Finding the state dict inside what training programs wrap around it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from convnext.weights.layouts.layout import StateDict

# In this order: averaged weights are what such runs report.
EMA_KEYS = ("ema", "model_ema", "state_dict_ema", "ema_state_dict")
PLAIN_KEYS = ("task", "network", "model", "state_dict", "model_state_dict", "module", "net")
COUNTERS = ("n_averaged", "steps")
PREFIXES = ("module.", "network.", "model.", "net.")


@dataclass(frozen=True)
class Unwrapped:
    """A bare state dict.

    Attributes:
        state: The tensors.
        wrappers: What was around them, outermost first: keys, and prefixes that end in a dot.
        extra: Other entries that were beside them.
    """

    state: StateDict
    wrappers: tuple[str, ...]
    extra: tuple[str, ...]


def unwrap(content: object, path: Path, *, ema: bool = True) -> Unwrapped:
    """Take off dictionaries (``model``, ``model_ema``, ...) and prefixes (``module.``, ...).

    Args:
        content: What a checkpoint file holds.
        path: Its name, for messages.
        ema: Prefer averaged weights where the file has both.

    Raises:
        ValueError: There is no state dict inside.
    """
    wrappers: list[str] = []
    extra: list[str] = []
    while True:
        if not isinstance(content, Mapping):
            raise ValueError(
                f"{path} is not a checkpoint of weights: it holds a {type(content).__name__}, not "
                "a dictionary of tensors"
            )
        order = (*EMA_KEYS, *PLAIN_KEYS) if ema else (*PLAIN_KEYS, *EMA_KEYS)
        key = next((key for key in order if _holds_tensors(content.get(key))), None)
        if key is None:
            break
        extra += [str(other) for other in content if other != key]
        wrappers.append(key)
        content = content[key]
    # Averaged weights come with a counter: torch.optim.swa_utils and OpenMMLab name it so.
    state = {
        key: value
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, Tensor) and key not in COUNTERS
    }
    if not state:
        keys = ", ".join(map(str, list(content)[:5]))
        raise ValueError(f"{path} is not a checkpoint of weights: no tensors in it (keys: {keys})")
    extra += [str(key) for key in content if key not in state]
    state, prefixes = _strip(state)
    return Unwrapped(state, (*wrappers, *prefixes), tuple(extra))


def _holds_tensors(value: object) -> bool:
    if not isinstance(value, Mapping):
        return False
    return any(isinstance(v, Tensor) or _holds_tensors(v) for v in value.values())


def _strip(state: StateDict) -> tuple[StateDict, list[str]]:
    """Remove prefixes that all names share; torch.compile puts its own anywhere in a name."""
    found = []
    if any("_orig_mod." in key for key in state):
        found.append("_orig_mod.")
        state = {key.replace("_orig_mod.", ""): value for key, value in state.items()}
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in state)), None):
        found.append(prefix)
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state, found
