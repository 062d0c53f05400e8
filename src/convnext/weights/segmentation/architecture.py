"""From the tensors of a segmentation network to its configuration."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from convnext.models.upernet import UPerNetConfig

__all__ = ["USUAL_SCALES", "describe", "infer_segmenter"]

USUAL_SCALES = UPerNetConfig().pool_scales
# What no shape tells, of the configuration that is stored with the weights.
UNTOLD = ("pool_scales", "dropout")
_POOL = re.compile(r"decode_head\.psp_modules\.(\d+)\.1\.conv\.weight")
_AUXILIARY = "auxiliary_head."


def infer_segmenter(
    state: Mapping[str, Tensor], backbone: str, in_chans: int, stored: Mapping[str, Any]
) -> UPerNetConfig:
    """The configuration of the segmentation network that a state dict under our names fits.

    Args:
        state: tensors.
        backbone: name of the network below.
        in_chans: its input channels.
        stored: the configuration that was saved with the weights, for what no shape tells.

    Raises:
        ValueError: the tensors do not make up a segmentation network of this package.
    """
    has_auxiliary = any(key.startswith(_AUXILIARY) for key in state)
    try:
        num_classes = state["decode_head.conv_seg.weight"].shape[0]
        head_dim = state["decode_head.bottleneck.conv.weight"].shape[0]
        aux_dim = state[f"{_AUXILIARY}convs.0.conv.weight"].shape[0] if has_auxiliary else 0
    except KeyError as missing:
        raise ValueError(f"not a whole UPerNet: {missing.args[0]} is missing") from None
    _refuse_others(state, num_classes)
    kept = {k: v for k, v in stored.items() if k in UNTOLD}
    try:
        config = UPerNetConfig(
            backbone=backbone,
            num_classes=num_classes,
            in_chans=in_chans,
            head_dim=head_dim,
            aux_dim=aux_dim,
            **kept,
        )
    except TypeError as error:
        raise ValueError(f"the configuration stored with it is wrong: {error}") from error
    pooled = sum(_POOL.fullmatch(key) is not None for key in state)
    if pooled != len(config.pool_scales):
        raise ValueError(
            f"it pools to {pooled} scales, but pool_scales are {config.pool_scales}; give "
            "pool_scales with as many numbers"
        )
    return config


def _refuse_others(state: Mapping[str, Tensor], num_classes: int) -> None:
    """Networks with the same names but another function."""
    if any(key.startswith(f"{_AUXILIARY}convs.1.") for key in state):
        raise ValueError("its auxiliary head has several convolutions; here it has one")
    classes = state.get(f"{_AUXILIARY}conv_seg.weight")
    if classes is not None and classes.shape[0] != num_classes:
        raise ValueError(
            f"its heads have {num_classes} and {classes.shape[0]} classes; here they have the same"
        )


def describe(config: UPerNetConfig) -> str:
    """The parts of a segmentation network above its backbone, in words."""
    parts = [f"UPerNet of {config.head_dim} channels"]
    if config.pool_scales != USUAL_SCALES:
        parts.append(f"pooled to {config.pool_scales}")
    auxiliary = f"auxiliary head of {config.aux_dim}" if config.aux_dim else "no auxiliary head"
    return ", ".join([*parts, auxiliary])
