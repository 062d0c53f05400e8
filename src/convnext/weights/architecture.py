"""From tensors to the network that they belong to."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from convnext.models.backbone import BackboneConfig
from convnext.models.convnext import ConvNeXtConfig
from convnext.models.large_kernel import RepLKNetConfig
from convnext.models.registry import list_models, model_config

_BLOCK = re.compile(
    r"stages\.(\d+)\.blocks\.(\d+)\.(?:large\.)?dwconv\.(?:weight|(?:tall|square)\.conv\.weight)"
)
_STEM_STRIDES = {3: 1, 4: 4, 16: 16}  # kernel of the stem -> stride; stride 2 has kernel 4 too
_USUAL_SMALL = 5  # of the papers; a merged square kernel does not show it


def infer_config(state: Mapping[str, Tensor]) -> ConvNeXtConfig | RepLKNetConfig:
    """The configuration of the network that a state dict in our layout fits.

    What shapes cannot tell takes the usual value: a 4x4 stem is read as stride 4 (stride 2 has
    the same kernel), layer scale starts at 1e-6, drop path is 0, the small kernel inside a merged
    square one was 5x5. Widths are given as they are, with a width_factor of 1. Without a head,
    num_classes is 0.

    Raises:
        ValueError: The tensors do not make up a ConvNeXt or RepLKNet.
    """
    blocks = {(int(m[1]), int(m[2])) for m in map(_BLOCK.fullmatch, state) if m}
    replknet = "stem.layers.0.conv.weight" in state
    if not blocks or not (replknet or "stem.conv.weight" in state):
        raise ValueError("not a whole ConvNeXt: the stem or all blocks are missing")
    num_stages = 1 + max(i for i, _ in blocks)
    depths = tuple(sum(i == stage for i, _ in blocks) for stage in range(num_stages))
    if blocks != {(i, j) for i, depth in enumerate(depths) for j in range(depth)}:
        raise ValueError(f"not a whole ConvNeXt: blocks are missing (found {sorted(blocks)})")
    num_classes = state["head.weight"].shape[0] if "head.weight" in state else 0
    infer = _infer_replknet if replknet else _infer_convnext
    try:
        return infer(state, depths, num_classes)
    except KeyError as missing:
        kind = "RepLKNet" if replknet else "ConvNeXt"
        raise ValueError(f"not a whole {kind}: {missing.args[0]} is missing") from None


def _infer_convnext(
    state: Mapping[str, Tensor], depths: tuple[int, ...], num_classes: int
) -> ConvNeXtConfig:
    places = [f"stages.{i}.blocks.0.dwconv." for i in range(len(depths))]
    kernels = [_kernels(state, place) for place in places]
    first, stem = "stages.0.blocks.0", state["stem.conv.weight"]
    if stem.ndim != 4 or stem.shape[2] not in _STEM_STRIDES or stem.shape[2] != stem.shape[3]:
        raise ValueError(
            f"the stem has shape {tuple(stem.shape)}; known are 3x3, 4x4 and 16x16 kernels"
        )
    stride, sizes = _STEM_STRIDES[stem.shape[2]], [size for size, _ in kernels]
    shared = [f"{places[0]}{branch}.conv" for branch in ("tall", "square")]
    merged = any(f"{conv}.bias" in state for conv in shared)
    small = 0
    if any(f"{conv}.weight" in state for conv in shared):
        # a norm without a small kernel means one that is not smaller than any
        small = max(n for _, n in kernels) or (_USUAL_SMALL if merged else max(sizes))
    return ConvNeXtConfig(
        depths=depths,
        dims=tuple(state[f"stages.{i}.blocks.0.norm.weight"].shape[0] for i in range(len(depths))),
        stem_stride=stride,
        isotropic=stride == 16,
        grn=f"{first}.grn.gamma" in state,
        layer_scale_init_value=1e-6 if f"{first}.gamma" in state else 0.0,
        kernel_size=_one_or_each(sizes),
        small_kernel=small,
        decomposed=any(f"{place}tall.conv.weight" in state for place in places),
        merged=merged,
        num_classes=num_classes,
        in_chans=stem.shape[1],
    )


def _infer_replknet(
    state: Mapping[str, Tensor], depths: tuple[int, ...], num_classes: int
) -> RepLKNetConfig:
    blocks = [f"stages.{i}.blocks.0." for i in range(len(depths))]
    kernels = [_kernels(state, f"{block}large.dwconv.") for block in blocks]
    widths = [state[f"{block}large.pwconv1.conv.weight"].shape[:2] for block in blocks]
    merged = "stem.layers.0.conv.bias" in state
    small = max(n for _, n in kernels)
    return RepLKNetConfig(
        depths=depths,
        dims=tuple(dim for _, dim in widths),
        kernel_size=_one_or_each([size for size, _ in kernels]),
        small_kernel=_USUAL_SMALL if merged else small,
        expansion=_expansion(widths),
        merged=merged,
        num_classes=num_classes,
        in_chans=state["stem.layers.0.conv.weight"].shape[1],
    )


def _kernels(state: Mapping[str, Tensor], place: str) -> tuple[int, int]:
    """Side of the large kernel, and of the small one or the strips (0 if there is none)."""
    tall, square, small = (
        state.get(f"{place}{branch}.conv.weight") for branch in ("tall", "square", "small")
    )
    large = tall if tall is not None else square
    if large is None and small is not None:
        raise ValueError(f"not a whole network: {place} has a small kernel and no large one")
    large = state[f"{place}weight"] if large is None else large
    beside = small if small is not None else tall
    return large.shape[2], 0 if beside is None else beside.shape[3]


def _one_or_each(sizes: Sequence[int]) -> int | tuple[int, ...]:
    return sizes[0] if len(set(sizes)) == 1 else tuple(sizes)


def _expansion(widths: Sequence[Sequence[int]]) -> float:
    """The factor that gives each stage's inner width, rounded down, from its outer one."""
    # the half is for products that would end up just below the whole number
    for factor in [(inner + half) / dim for half in (0.0, 0.5) for inner, dim in widths]:
        if all(int(dim * factor) == inner for inner, dim in widths):
            return factor
    raise ValueError(f"the stages have no common expansion (inner and outer widths: {widths})")


# What describes the blocks, in words that can differ for the same tensors.
_DESCRIPTION = (
    "dims",
    "width_factor",
    "width_multiple",
    "kernel_size",
    "small_kernel",
    "decomposed",
    "expansion",
)


def described(config: BackboneConfig, words: Mapping[str, Any]) -> BackboneConfig:
    """A configuration in the words of another one for the same network, where it has them."""
    fields = {f.name for f in dataclasses.fields(config)}
    changes = {k: words[k] for k in _DESCRIPTION if k in words and k in fields}
    other = dataclasses.replace(config, **changes)
    return other if same_network(other, config) else config


def same_network(a: BackboneConfig, b: BackboneConfig) -> bool:
    """Whether two configurations have the same blocks, be they merged or not."""
    if isinstance(a, ConvNeXtConfig | RepLKNetConfig) and type(a) is type(b):
        return not differences(a, b)
    starts = ("head_init_scale", "layer_scale_init_value")
    fields = ({k: v for k, v in stored_fields(c).items() if k not in starts} for c in (a, b))
    return type(a) is type(b) and next(fields) == next(fields)


def differences(a: BackboneConfig, b: BackboneConfig) -> dict[str, tuple[object, object]]:
    """What differs between the blocks of two configurations: word -> both values."""
    merged = is_merged(a) or is_merged(b)  # a merged square kernel does not show the small one
    first, second = _blocks(a, merged), _blocks(b, merged)
    words = dict.fromkeys([*first, *second])
    return {w: (first.get(w), second.get(w)) for w in words if first.get(w) != second.get(w)}


def is_merged(config: BackboneConfig) -> bool:
    """Whether a configuration is of a merged network."""
    return isinstance(config, ConvNeXtConfig | RepLKNetConfig) and config.merged


def _blocks(config: BackboneConfig, merged: bool) -> dict[str, object]:
    """What decides the tensors of the blocks."""
    result: dict[str, object] = {"depths": config.depths, "channels": config.channels}
    if isinstance(config, RepLKNetConfig):
        inner = tuple(int(dim * config.expansion) for dim in config.dims)
        result |= {"kernel_size": config.kernel_sizes, "inner channels": inner}
        result |= _branches(config.kernel_sizes, config.small_kernel, False, merged)
    elif isinstance(config, ConvNeXtConfig):
        result |= {"grn": config.grn, "isotropic": config.isotropic}
        result |= {"kernel_size": config.kernel_sizes, "branches": config.small_kernel > 0}
        small, strips = config.small_kernel, config.decomposed
        result |= _branches(config.kernel_sizes, small, strips, merged)
    return result


def _branches(sizes: Sequence[int], small: int, strips: bool, merged: bool) -> dict[str, object]:
    """Kinds of the large kernels, and the small kernels that show."""
    inside = [0 < small < size for size in sizes]
    strips = strips and any(inside)
    shown = tuple(small if there and (strips or not merged) else 0 for there in inside)
    return {"large kernels": "strips" if strips else "square", "small_kernel": shown}


def model_name(config: BackboneConfig) -> str | None:
    """The name in the registry of a network with these blocks, merged or not, or None."""
    return next((n for n in list_models() if same_network(model_config(n), config)), None)


def base_name(config: BackboneConfig) -> str:
    """The name of a network with the same fields, for one that has no name of its own."""
    if isinstance(config, RepLKNetConfig):
        return "replknet_31b"
    grn = isinstance(config, ConvNeXtConfig) and config.grn
    return "convnextv2_tiny" if grn else "convnext_tiny"


def stored_fields(config: BackboneConfig) -> dict[str, object]:
    """What of a configuration belongs to the weights, not to a use of them."""
    uses = ("num_classes", "in_chans", "drop_path_rate", "features_only", "out_indices")
    return {k: v for k, v in dataclasses.asdict(config).items() if k not in uses}
