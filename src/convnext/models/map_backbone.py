"""A network as what detectors and segmentation networks stand on: four maps, each with a norm."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, cast

from torch import Tensor, nn

from convnext.layers.layer_norm import LayerNorm2d
from convnext.models.field_values import checked_fields
from convnext.models.registry import FeatureInfo, is_model, model_config, unknown

__all__ = ["REDUCTIONS", "MapBackbone", "check_body_args"]

REDUCTIONS = [4, 8, 16, 32]
# Fields of a backbone that what stands on it decides.
DECIDED = ("num_classes", "in_chans", "drop_path_rate", "features_only", "out_indices")


def check_body_args(backbone: str, args: Mapping[str, Any], where: str) -> None:
    """Refuse fields that the configuration of a backbone cannot have.

    Args:
        backbone: its name; of one that is not known, or of another library, nothing is checked.
        args: fields, as JSON has them.
        where: what they are called in messages.

    Raises:
        ValueError: a field is unknown or decided elsewhere, or has a wrong type or value.
    """
    if not args or not is_model(backbone):
        return
    config = model_config(backbone)
    known = [f.name for f in fields(config) if f.name not in DECIDED]
    for name in args:
        if name not in known:
            raise unknown(f"field of {where}", name, known)
    try:
        replace(config, **checked_fields(type(config), args))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


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
