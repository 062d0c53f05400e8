"""Small detectors with weights that all matter."""

import torch

from convnext.models.mask_rcnn import MaskRCNN, MaskRCNNConfig
from convnext.models.registry import build_model

SHAPE = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}
SLAK = {**SHAPE, "width_factor": 1.0, "kernel_size": (13, 11, 9, 7), "small_kernel": 5}
REPLKNET = {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16), "kernel_size": (13, 11, 9, 7)}
WIDTHS = {"fpn_dim": 16, "fc_dim": 24, "mask_convs": 1, "num_classes": 3}
BODIES = {
    "convnext_tiny": SHAPE,
    "convnextv2_tiny": SHAPE,
    "slak_tiny": SLAK,
    "replknet_31b": REPLKNET,
}


def detector(backbone="convnext_tiny", *, body=None, cascade=False, in_chans=3, **config):
    config = {**WIDTHS, "box_convs": 2 if cascade else None, **config}
    network = build_model(
        backbone,
        **{**BODIES.get(backbone, {}), **(body or {})},
        features_only=True,
        num_classes=0,
        in_chans=in_chans,
    )
    settings = MaskRCNNConfig(backbone=backbone, cascade=cascade, in_chans=in_chans, **config)
    return perturbed(MaskRCNN(settings, network))


def perturbed(model, seed=1):
    """Give every tensor values of its own; variances stay positive."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("num_batches_tracked"):
                tensor.fill_(7)
            elif name.endswith("running_var"):
                tensor.copy_(1 + torch.rand(tensor.shape, generator=generator))
            else:
                tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
                if tensor.ndim == 1 and name.endswith(("weight", "gamma")):
                    tensor += 1
    return model.eval()


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def maps_of(model, x):
    with torch.no_grad():
        return list(model(x))
