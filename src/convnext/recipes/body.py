"""What a backbone needs that starts from scratch below a detector or a segmentation network."""

from typing import Any

from convnext.models.registry import is_model, model_config

__all__ = ["body_from_scratch"]

# As in the published configurations of detectors and segmentation networks: from 1e-6, the value
# for 300 epochs of ImageNet, the blocks would hardly open.
LAYER_SCALE = 1.0


def body_from_scratch(backbone: str) -> dict[str, Any]:
    """Fields of a backbone's configuration for training it from new weights.

    Args:
        backbone: name of the network; one of another library has none.

    Source: facebookresearch/ConvNeXt, configurations of detection and segmentation
    (layer_scale_init_value).
    """
    start = (
        getattr(model_config(backbone), "layer_scale_init_value", 0) if is_model(backbone) else 0
    )
    return {"layer_scale_init_value": LAYER_SCALE} if start else {}
