"""Any backbone of timm as the body of a detector or a segmentation network."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from convnext.models.registry import FeatureInfo, unknown

__all__ = ["TIMM", "TimmBackbone"]

TIMM = "timm:"  # begins the names of such backbones
REDUCTIONS = (4, 8, 16, 32)


class TimmBackbone(nn.Module):
    """A network of timm that returns its maps of strides 4, 8, 16 and 32.

    Args:
        name: timm's name of the network.
        in_chans: input channels.
        drop_path_rate: stochastic depth.
        pretrained: whether to load timm's default weights of the network.

    Raises:
        ValueError: timm has no such network, or it has no four maps of these strides, or no
            stochastic depth.
        OSError: the weights cannot be fetched.
    """

    def __init__(
        self,
        name: str,
        *,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        with torch.device("meta"):
            reductions = _create(name, in_chans=in_chans).feature_info.reduction()
        chosen = [i for i, stride in enumerate(reductions) if stride in REDUCTIONS]
        if [reductions[i] for i in chosen] != list(REDUCTIONS):
            raise ValueError(
                f"timm's {name} has maps of strides {reductions}; a backbone needs one each "
                f"of {list(REDUCTIONS)}"
            )
        rate = {"drop_path_rate": drop_path_rate} if drop_path_rate else {}
        self.name = name
        self.model = _create(
            name, in_chans=in_chans, pretrained=pretrained, out_indices=tuple(chosen), **rate
        )
        channels = self.model.feature_info.channels()
        self.feature_info = FeatureInfo(tuple(zip(channels, REDUCTIONS, strict=True)))
        self._channels_last = str(getattr(self.model, "output_fmt", "NCHW")).endswith("NHWC")

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, in_chans, H, W) to four maps (N, C_i, H / s_i, W / s_i)."""
        maps = cast(list[Tensor], self.model(x))
        return [m.permute(0, 3, 1, 2) for m in maps] if self._channels_last else list(maps)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass, where the network can.

        Raises:
            ValueError: it cannot.
        """
        change = getattr(self.model, "set_grad_checkpointing", None)
        if change is None:
            raise ValueError(f"timm's {self.name} has no gradient checkpointing for features")
        change(enable)


def _create(name: str, **arguments: Any) -> Any:
    import timm

    if not timm.is_model(name.split(".")[0]):
        raise unknown("timm model", name, timm.list_models())
    try:
        try:  # networks with windows want one size else
            return timm.create_model(name, features_only=True, strict_img_size=False, **arguments)
        except TypeError:
            return timm.create_model(name, features_only=True, **arguments)
    except (TypeError, RuntimeError, AttributeError) as error:
        given = " with drop_path_rate" if "drop_path_rate" in arguments else ""
        raise ValueError(f"timm's {name} cannot be a backbone{given}: {error}") from error
