"""Names to networks: ``name -> Config -> network``, and what a feature pyramid looks like."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from convnext.models.field_values import checked_fields

if TYPE_CHECKING:
    from torch import nn


@dataclasses.dataclass(frozen=True)
class FeatureInfo:
    """Channels and stride of each map that a network returns with ``features_only=True``."""

    maps: tuple[tuple[int, int], ...]

    def channels(self) -> list[int]:
        """Channels of each map, shallow to deep."""
        return [channels for channels, _ in self.maps]

    def reduction(self) -> list[int]:
        """Stride of each map against the input, in pixels."""
        return [stride for _, stride in self.maps]


# One network, one module: importing it registers its table of variants.
_NETWORK_MODULES = (
    "convnext.models.convnext",
    "convnext.models.roadmap",
    "convnext.models.large_kernel",
)
SHOWN = 50  # names of a message
_REGISTRY: dict[str, tuple[Callable[[Any], nn.Module], Any]] = {}


def register(network: Callable[[Any], nn.Module], table: dict[str, Any]) -> None:
    """Enter a network's table of variants (name -> Config)."""
    for name, config in table.items():
        assert name not in _REGISTRY, f"{name} is registered twice"
        _REGISTRY[name] = (network, config)


def _registry() -> dict[str, tuple[Callable[[Any], nn.Module], Any]]:
    for module in _NETWORK_MODULES:
        import_module(module)
    return _REGISTRY


def unknown(what: str, value: str, known: Iterable[str]) -> ValueError:
    """A ValueError that names the nearest known word."""
    known = list(known)
    near = difflib.get_close_matches(value, known, n=1, cutoff=0.5)
    shown = ", ".join(known[:SHOWN]) + f", ... ({len(known)} in all)" * (len(known) > SHOWN)
    hint = f"did you mean {near[0]}?" if near else f"known: {shown}"
    return ValueError(f"unknown {what} {value!r}; {hint}")


def list_models(pattern: str = "*") -> list[str]:
    """Names of all networks that match a shell-style pattern, in table order."""
    return fnmatch.filter(_registry(), pattern)


def is_model(name: str) -> bool:
    """Whether a network of this name exists."""
    return name in _registry()


def is_detector_name(name: str) -> bool:
    """Whether a name is that of a detector on some backbone, known or not."""
    return name.startswith(("mask_rcnn_", "cascade_mask_rcnn_"))


def is_segmenter_name(name: str) -> bool:
    """Whether a name is that of a segmentation network on some backbone, known or not."""
    return name.startswith("upernet_")


def model_config(name: str) -> Any:
    """The configuration of a named network, with 1000 classes.

    Raises:
        ValueError: No network has this name; the nearest names are given.
    """
    registry = _registry()
    if name not in registry:
        raise unknown("model", name, registry)
    return registry[name][1]


def build_model(
    name: str,
    *,
    num_classes: int = 1000,
    in_chans: int = 3,
    drop_path_rate: float = 0.0,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    **config_overrides: Any,
) -> nn.Module:
    """Build a network with new weights.

    Args:
        name: A name of :func:`list_models`.
        num_classes: Outputs of the head; 0 returns the pooled, normalised features.
        in_chans: Input channels.
        drop_path_rate: Stochastic depth of the last block; grows linearly from 0 over the blocks.
        features_only: Return the list of stage outputs (N, C_i, H_i, W_i) instead of logits.
        out_indices: Which stages to return with ``features_only``; all by default.
        **config_overrides: Any other field of the network's configuration.

    Raises:
        ValueError: Unknown name or field, or a value out of its range.
    """
    config = model_config(name)
    fields = [f.name for f in dataclasses.fields(config)]
    for key in config_overrides:
        if key not in fields:
            raise unknown(f"argument of {name}", key, fields)
    if out_indices is not None and not features_only:
        raise ValueError("out_indices needs features_only=True")
    config_overrides = checked_fields(type(config), config_overrides)
    config = dataclasses.replace(
        config,
        num_classes=num_classes,
        in_chans=in_chans,
        drop_path_rate=drop_path_rate,
        features_only=features_only,
        out_indices=None if out_indices is None else tuple(out_indices),
        **config_overrides,
    )
    return _registry()[name][0](config)
