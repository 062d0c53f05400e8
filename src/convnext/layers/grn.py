"""GRN: global response normalisation as a module."""

import torch
from torch import Tensor, nn

from convnext.ops.dispatch import use_reference
from convnext.ops.grn import grn, grn_reference


class GRN(nn.Module):
    """Global response normalisation on (N, H, W, C); γ and β of shape (C,), zero at the start.

    Source: ConvNeXt V2, section 3.2.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, H, W, C) by the response of each channel."""
        op = grn_reference if use_reference() else grn
        return op(x, self.gamma, self.beta)
