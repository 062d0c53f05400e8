"""All layouts: which one a file has, told by its content, and translation to and from ours."""

from collections.abc import Mapping

from torch import Tensor

from convnext.models.registry import unknown
from convnext.weights.architecture import infer_config, model_name
from convnext.weights.layouts.fcmae import FCMAE
from convnext.weights.layouts.layout import Converted, Layout, StateDict
from convnext.weights.layouts.official import OFFICIAL, OFFICIAL_ISOTROPIC
from convnext.weights.layouts.ours import OURS
from convnext.weights.layouts.timm import CONV_MLP, TIMM
from convnext.weights.layouts.torchvision import TORCHVISION
from convnext.weights.layouts.transformers import (
    TRANSFORMERS_BARE,
    TRANSFORMERS_V1,
    TRANSFORMERS_V2,
)

LAYOUTS = (
    OURS,
    OFFICIAL,
    OFFICIAL_ISOTROPIC,
    FCMAE,
    TIMM,
    TORCHVISION,
    TRANSFORMERS_V1,
    TRANSFORMERS_V2,
    TRANSFORMERS_BARE,
)
LAYOUT_NAMES = tuple(dict.fromkeys(layout.name for layout in LAYOUTS))


def detect_layout(state: Mapping[str, Tensor]) -> Layout:
    """The layout that knows most names of a state dict.

    Raises:
        ValueError: No layout finds the depthwise convolution of a ConvNeXt block in it.
    """
    best, most = None, 0
    for layout in LAYOUTS:
        names = [layout.ours(key) for key in state]
        has_block = any(name and name.endswith(".dwconv.weight") for name in names)
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
        ValueError: It is not a ConvNeXt, or a tensor has an impossible shape.
    """
    layout = detect_layout(state)
    return layout, layout.read(state)


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
        return OURS.write(state)
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
    return {"official": OFFICIAL, "fcmae": FCMAE, "torchvision": TORCHVISION}[layout].write(state)


def to_timm_shapes(state: StateDict, architecture: str | None) -> StateDict:
    """Give pointwise weights the shape that timm's network of this name has."""
    if architecture not in CONV_MLP:
        return state
    return {
        key: tensor[:, :, None, None] if ".mlp.fc" in key and tensor.ndim == 2 else tensor
        for key, tensor in state.items()
    }
