"""Small networks, pictures of waves, and what PyTorch finds in them."""

import math

import numpy as np
import torch

from convnext.data.config import DetectionDataConfig
from convnext.data.detection.dataset import collate
from convnext.data.detection.transforms import eval_steps
from convnext.data.pixels import apply_to_pixels
from convnext.models.detection.masks import paste
from convnext.models.mask_rcnn import MaskRCNN, MaskRCNNConfig
from convnext.models.registry import build_model
from convnext.models.upernet import UPerNet, UPerNetConfig
from convnext.weights.detection import DetectorPreprocessing

ONE_BLOCK_EACH = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}
BODIES = {
    "convnextv2_tiny": ONE_BLOCK_EACH,
    "slak_tiny": {
        **ONE_BLOCK_EACH,
        **{"width_factor": 1.0, "kernel_size": (13, 11, 9, 7), "small_kernel": 5},
    },
}
WIDTHS = {
    **{"num_classes": 3, "fpn_dim": 16, "fc_dim": 24, "mask_convs": 1},
    **{"rpn_per_level": (300, 200), "rpn_proposals": (100, 60)},
}
# Boxes move, and no two scores are so close that rounding decides their order.
GAINS = {"rpn_cls": 0.5, "conv_logits": 2.0, "fc_reg": 0.2, "rpn_reg": 0.2}
PRE = DetectorPreprocessing(min_size=96, max_size=160)
LABELS = ["ship", "Boje", "鯨"]


def new_detector(backbone, **config):
    body = build_model(backbone, features_only=True, num_classes=0, **BODIES[backbone])
    if config.get("cascade"):
        config["box_convs"] = 1
    return with_noise(MaskRCNN(MaskRCNNConfig(backbone=backbone, **WIDTHS, **config), body))


def new_segmenter(backbone, **config):
    chans = config.get("in_chans", 3)
    body = build_model(
        backbone, features_only=True, num_classes=0, in_chans=chans, **BODIES[backbone]
    )
    config = UPerNetConfig(backbone=backbone, num_classes=5, head_dim=16, aux_dim=8, **config)
    return with_noise(UPerNet(config, body))


def with_noise(model):
    """Weights with which every part of the network matters."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            noise = torch.randn(tensor.shape, generator=generator)
            if tensor.ndim >= 2:
                gain = next((g for part, g in GAINS.items() if part in name), 1.0)
                tensor.copy_(noise * gain * math.sqrt(2 / math.prod(tensor.shape[1:])))
            elif not name.endswith("num_batches_tracked"):
                one = name.endswith(("norm.weight", "bn.weight", "gamma", "running_var"))
                tensor.copy_(one + 0.1 * noise)
    return model.eval()


def picture(height, width):
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(0.11 * y + 0.7 * c) * np.cos(0.07 * x * (c + 1)) for c in range(3)]
    return (127 + 120 * np.stack(waves, -1)).astype(np.uint8)


def detected(model, pixels):
    """What the detector itself finds in a picture: detections and masks in the picture."""
    data = DetectionDataConfig(path="", min_size=PRE.min_size, max_size=PRE.max_size)
    size = pixels.shape[:2]
    batch = collate([(apply_to_pixels(pixels, eval_steps(*size, data)), size)], data)
    with torch.no_grad():
        (found,) = model(batch["image"], batch["size"], originals=batch["original"])
    if found.masks is None:
        return found, None
    pairs = zip(found.masks, found.boxes, strict=True)
    return found, np.stack([paste(mask, box, size).numpy() for mask, box in pairs])
