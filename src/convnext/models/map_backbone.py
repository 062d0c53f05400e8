"""A network as what detectors and segmentation networks stand on: four maps, each with a norm."""

from typing import cast

from torch import Tensor, nn

from convnext.layers.layer_norm import LayerNorm2d
from convnext.models.registry import FeatureInfo

__all__ = ["REDUCTIONS", "MapBackbone"]

REDUCTIONS = [4, 8, 16, 32]


class MapBackbone(nn.Module):
    """Four maps of a network, each with a layer norm of its own.

    Args:
        body: returns maps of strides 4, 8, 16 and 32, and has their `feature_info`.

    Raises:
        ValueError: its maps have other strides.

    Source: ConvNeXt, section 4 and the published detectors and segmentation networks.
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        info = cast(FeatureInfo, body.feature_info)
        if info.reduction() != REDUCTIONS:
            raise ValueError(
                f"the backbone's maps have strides {info.reduction()}; here it needs {REDUCTIONS}"
            )
        self.channels = info.channels()
        self.body = body
        for i, channels in enumerate(self.channels):
            self.add_module(f"norm{i}", LayerNorm2d(channels))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, C, H, W) to maps (N, C_i, H / s_i, W / s_i)."""
        maps = self.body(x)
        return [self.get_submodule(f"norm{i}")(m) for i, m in enumerate(maps)]
