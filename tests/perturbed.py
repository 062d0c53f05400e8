"""Weights as after training, where the usual start would hide mistakes."""

import torch
from torch import nn


def perturb(model: nn.Module) -> None:
    """Give every parameter random values: no scale is 1 and no shift 0, each is of usual size."""
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith(".gamma") and ".grn" not in key:
                parameter.uniform_(0.1, 1)
            elif parameter.ndim > 1:
                parameter.normal_(std=0.2 if "dwconv" in key else parameter[0].numel() ** -0.5)
            else:
                parameter.normal_(1.0 if "norm" in key and "weight" in key else 0.0, std=0.2)
