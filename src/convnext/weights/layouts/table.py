"""All layouts: which one a file has, told by its content, and translation to and from ours."""

import re
from collections.abc import Mapping

from torch import Tensor

from convnext.models.convnext import ConvNeXtConfig
from convnext.models.large_kernel import RepLKNetConfig
from convnext.models.registry import unknown
from convnext.weights.architecture import infer_config, model_name
from convnext.weights.layouts.fcmae import FCMAE
from convnext.weights.layouts.layout import Converted, Layout, StateDict
from convnext.weights.layouts.official import OFFICIAL, OFFICIAL_ISOTROPIC
from convnext.weights.layouts.openmmlab import OPENMMLAB, OPENMMLAB_BODY
from convnext.weights.layouts.ours import OURS, OURS_REPLKNET
from convnext.weights.layouts.replknet import REPLKNET, REPLKNET_MERGED
from convnext.weights.layouts.settling import settle
from convnext.weights.layouts.slak import SLAK, SLAK_MERGED
from convnext.weights.layouts.timm import CONV_MLP, TIMM, TIMM_FEATURES
from convnext.weights.layouts.torchvision import TORCHVISION
from convnext.weights.layouts.transformers import (
    TRANSFORMERS_BARE,
    TRANSFORMERS_V1,
    TRANSFORMERS_V2,
)

LAYOUTS = (
    OURS,
    OURS_REPLKNET,
    OFFICIAL,
    OFFICIAL_ISOTROPIC,
    SLAK,
    SLAK_MERGED,
    REPLKNET,
    REPLKNET_MERGED,
    FCMAE,
    TIMM,
    TIMM_FEATURES,
    TORCHVISION,
    TRANSFORMERS_V1,
    TRANSFORMERS_V2,
    TRANSFORMERS_BARE,
    OPENMMLAB,
    OPENMMLAB_BODY,
)
LAYOUT_NAMES = tuple(dict.fromkeys(layout.name for layout in LAYOUTS))
_BLOCK = re.compile(r"\.blocks\.\d+\.(large\.)?dwconv\.((square|tall)\.conv\.)?weight\Z")


def detect_layout(state: Mapping[str, Tensor]) -> Layout:
    """The layout that knows most names of a state dict.

    Raises:
        ValueError: No layout finds the depthwise convolution of a ConvNeXt block in it.
    """
    best, most = None, 0
    for layout in LAYOUTS:
        names = [layout.ours(key) for key in state]
        has_block = any(name and _BLOCK.search(name) for name in names)
        count = sum(name is not None for name in names)
        if has_block and count > most:
            best, most = layout, count
    if best is None:
        some = ", ".join(list(state)[:3])
        raise ValueError(
            f"not a ConvNeXt checkpoint: none of the layouts {', '.join(LAYOUT_NAMES)} has its "
            f"tensor names ({some}, ...; {len(state)} in all)"
        )
    return best


def to_convnext(state: Mapping[str, Tensor]) -> tuple[Layout, Converted]:
    """Find the layout of a state dict and translate it to ours.

    Raises:
        ValueError: It is not a ConvNeXt or RepLKNet, or a tensor has an impossible shape.
    """
    layout = detect_layout(state)
    converted = layout.read(state)
    settle(converted)
    return layout, converted


def from_convnext(state: Mapping[str, Tensor], layout: str) -> StateDict:
    """Translate a state dict in our layout to another.

    Args:
        state: Tensors under our names.
        layout: One of :data:`LAYOUT_NAMES`.

    Raises:
        ValueError: Unknown layout, or one that cannot express this network.
    """
    if layout not in LAYOUT_NAMES:
        raise unknown("layout", layout, LAYOUT_NAMES)
    config = infer_config(state)
    if layout == "convnext":
        return (OURS if isinstance(config, ConvNeXtConfig) else OURS_REPLKNET).write(state)
    if isinstance(config, RepLKNetConfig) or not config.plain:
        return _large_kernels(config, layout).write(state)
    if config.isotropic:
        if layout != "official":
            raise ValueError(
                f"the layout {layout} has no isotropic network; use 'official' or 'convnext'"
            )
        return OFFICIAL_ISOTROPIC.write(state)
    if config.grn and layout == "torchvision":
        raise ValueError("the layout torchvision has no ConvNeXt V2; use 'timm' or 'official'")
    if config.stem_stride == 1 and layout != "official":
        raise ValueError(
            f"the layout {layout} has only 4x4 stems of stride 4, this network has stem_stride "
            f"{config.stem_stride}; use 'convnext'"
        )
    if layout == "timm":
        return to_timm_shapes(TIMM.write(state), model_name(config))
    if layout == "transformers":
        if config.grn and config.layer_scale_init_value > 0:
            raise ValueError("the layout transformers has no network with both GRN and layer scale")
        return (TRANSFORMERS_V2 if config.grn else TRANSFORMERS_V1).write(state)
    others = {
        "official": OFFICIAL,
        "fcmae": FCMAE,
        "torchvision": TORCHVISION,
        "openmmlab": OPENMMLAB,
    }
    return others[layout].write(state)


def _large_kernels(config: ConvNeXtConfig | RepLKNetConfig, layout: str) -> Layout:
    """The layout in which a network with other kernels than one of 7x7 can be written.

    Raises:
        ValueError: There is none of this name.
    """
    found: Layout | None
    if isinstance(config, RepLKNetConfig):
        what, found = "RepLKNet", None if config.merged else REPLKNET
    elif config.small_kernel:
        what = f"network with large kernels {config.kernel_sizes} in branches"
        found = SLAK_MERGED if config.merged else SLAK
        if config.isotropic or (config.merged and config.decomposed):
            found = None
    else:
        what = f"network with depthwise kernels {config.kernel_sizes}"
        found = OFFICIAL_ISOTROPIC if config.isotropic else OFFICIAL
        if layout == "timm" and not config.isotropic and config.stem_stride != 1:
            return TIMM  # its network takes kernel_sizes
    if layout != "official":
        raise ValueError(f"the layout {layout} has no {what}; use 'official' or 'convnext'")
    if found is None:
        kind = "merged" if config.merged else "isotropic"
        raise ValueError(f"the layout official has no {kind} {what}; use 'convnext'")
    return found


def to_timm_shapes(state: StateDict, architecture: str | None) -> StateDict:
    """Give pointwise weights the shape that timm's network of this name has."""
    if architecture not in CONV_MLP:
        return state
    return {
        key: tensor[:, :, None, None] if ".mlp.fc" in key and tensor.ndim == 2 else tensor
        for key, tensor in state.items()
    }
