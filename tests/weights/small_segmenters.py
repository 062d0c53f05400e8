"""Small segmentation networks with weights that all matter."""

from small_detectors import BODIES, perturbed

from convnext.models.registry import build_model
from convnext.models.upernet import UPerNet, UPerNetConfig

WIDTHS = {"head_dim": 16, "aux_dim": 12, "num_classes": 3}


def segmenter(backbone="convnext_tiny", *, body=None, in_chans=3, **config):
    network = build_model(
        backbone,
        **{**BODIES.get(backbone, {}), **(body or {})},
        features_only=True,
        num_classes=0,
        in_chans=in_chans,
    )
    settings = UPerNetConfig(backbone=backbone, in_chans=in_chans, **{**WIDTHS, **config})
    return perturbed(UPerNet(settings, network))
