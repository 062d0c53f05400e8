"""From tensors to the network that they belong to."""

import dataclasses
import re
from collections.abc import Mapping

from torch import Tensor

from convnext.models.backbone import BackboneConfig
from convnext.models.convnext import ConvNeXtConfig
from convnext.models.registry import list_models, model_config

_BLOCK = re.compile(r"stages\.(\d+)\.blocks\.(\d+)\.dwconv\.weight")
_STEM_STRIDES = {3: 1, 4: 4, 16: 16}  # kernel of the stem -> stride; stride 2 has kernel 4 too


def infer_config(state: Mapping[str, Tensor]) -> ConvNeXtConfig:
    """The configuration of the network that a state dict in our layout fits.

    What shapes cannot tell takes the usual value: a 4x4 stem is read as stride 4 (stride 2 has
    the same kernel), layer scale starts at 1e-6, drop path is 0. Without a head, num_classes is 0.

    Raises:
        ValueError: The tensors do not make up a ConvNeXt.
    """
    blocks = [(int(m[1]), int(m[2])) for m in map(_BLOCK.fullmatch, state) if m]
    if not blocks or "stem.conv.weight" not in state:
        raise ValueError("not a whole ConvNeXt: the stem or all blocks are missing")
    num_stages = 1 + max(i for i, _ in blocks)
    depths = tuple(sum(i == stage for i, _ in blocks) for stage in range(num_stages))
    if set(blocks) != {(i, j) for i, depth in enumerate(depths) for j in range(depth)}:
        raise ValueError(f"not a whole ConvNeXt: blocks are missing (found {sorted(blocks)})")
    first = "stages.0.blocks.0"
    stem = state["stem.conv.weight"]
    if stem.ndim != 4 or stem.shape[2] not in _STEM_STRIDES or stem.shape[2] != stem.shape[3]:
        raise ValueError(
            f"the stem has shape {tuple(stem.shape)}; known are 3x3, 4x4 and 16x16 kernels"
        )
    stride = _STEM_STRIDES[stem.shape[2]]
    return ConvNeXtConfig(
        depths=depths,
        dims=tuple(state[f"stages.{i}.blocks.0.dwconv.weight"].shape[0] for i in range(num_stages)),
        stem_stride=stride,
        isotropic=stride == 16,
        grn=f"{first}.grn.gamma" in state,
        layer_scale_init_value=1e-6 if f"{first}.gamma" in state else 0.0,
        num_classes=state["head.weight"].shape[0] if "head.weight" in state else 0,
        in_chans=stem.shape[1],
    )


def same_network(a: BackboneConfig, b: BackboneConfig) -> bool:
    """Whether two configurations have the same blocks."""
    if isinstance(a, ConvNeXtConfig) and isinstance(b, ConvNeXtConfig):
        return (a.depths, a.dims, a.grn, a.isotropic) == (b.depths, b.dims, b.grn, b.isotropic)
    starts = ("head_init_scale", "layer_scale_init_value")
    fields = ({k: v for k, v in stored_fields(c).items() if k not in starts} for c in (a, b))
    return type(a) is type(b) and next(fields) == next(fields)


def model_name(config: BackboneConfig) -> str | None:
    """The name in the registry of a network with these blocks, or None."""
    return next((n for n in list_models() if same_network(model_config(n), config)), None)


def stored_fields(config: BackboneConfig) -> dict[str, object]:
    """What of a configuration belongs to the weights, not to a use of them."""
    uses = ("num_classes", "in_chans", "drop_path_rate", "features_only", "out_indices")
    return {k: v for k, v in dataclasses.asdict(config).items() if k not in uses}
