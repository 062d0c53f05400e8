"""Feature diversity: how far the channels of a layer are from saying the same."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

__all__ = ["Diversity", "channel_distance", "diversity", "expanded_layers"]


@dataclass(frozen=True)
class Diversity:
    """One layer, as a mean over images.

    Attributes:
        layer: Name of the module whose input was looked at.
        channels: Number of channels C.
        distance: Mean pairwise cosine distance of the channels, 0 (all alike) to 0.5 and more.
        dead: Share of channels that are 0 at every position.
    """

    layer: str
    channels: int
    distance: float
    dead: float


def channel_distance(maps: Tensor) -> Tensor:
    """Mean pairwise cosine distance of channels, (N,), of maps (N, C, positions).

    d = 1/C² Σ_i Σ_j (1 - cos(X_i, X_j)) / 2, computed as (1 - |Σ_i X_i/|X_i||² / C²) / 2, so that
    no C x C matrix is needed. A channel of zeros has cosine 0 with every other.

    Source: ConvNeXt V2, section 3.2, feature cosine distance analysis.
    """
    maps = maps.double()
    norm = maps.norm(dim=2, keepdim=True)
    unit = maps / norm.clamp_min(torch.finfo(maps.dtype).tiny)
    distance: Tensor = (1 - unit.sum(1).square().sum(1) / maps.shape[1] ** 2) / 2
    return distance


def expanded_layers(network: nn.Module) -> dict[str, nn.Module]:
    """The second pointwise layer of every block: its input are the expanded features.

    Raises:
        ValueError: The network has no such layers.
    """
    found = {name: m for name, m in network.named_modules() if name.endswith(".pwconv2")}
    if not found:
        raise ValueError(f"{type(network).__name__} has no layers named pwconv2 to look at")
    return found


def diversity(network: nn.Module, batches: Iterable[Tensor]) -> list[Diversity]:
    """Diversity of the expanded features of every block, in the network's order.

    Args:
        network: In evaluation mode.
        batches: Images (N, in_chans, H, W) on the network's device.

    Raises:
        ValueError: There is no image, or the network has no blocks of this kind.
    """
    layers = expanded_layers(network)
    sums = {name: [0.0, 0.0] for name in layers}
    channels = dict.fromkeys(layers, 0)
    number = 0
    for images in batches:
        with torch.inference_mode(), _inputs(layers) as seen:
            cast(Any, network).forward_features(images)
        number += len(images)
        for name, maps in seen.items():
            sums[name][0] += channel_distance(maps).sum().item()
            sums[name][1] += (maps == 0).all(2).double().mean(1).sum().item()
            channels[name] = maps.shape[1]
    if not number:
        raise ValueError("no image to look at features of")
    return [Diversity(n, channels[n], a / number, b / number) for n, (a, b) in sums.items()]


@contextmanager
def _inputs(layers: dict[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """What flows into the layers, each as (N, C, positions)."""
    seen: dict[str, Tensor] = {}

    def keep(name: str, last: bool) -> Any:
        def hook(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            x = arguments[0].float()
            seen[name] = x.flatten(1, 2).transpose(1, 2) if last else x.flatten(2)

        return hook

    handles = [
        module.register_forward_pre_hook(keep(name, isinstance(module, nn.Linear)))
        for name, module in layers.items()
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
