"""LayerNorm2d: layer normalisation over the channels of a map."""

import torch
from torch import Tensor, nn

from convnext.ops.layer_norm import layer_norm_2d


class LayerNorm2d(nn.Module):
    """Layer normalisation over the channels of (N, C, H, W), with weight and bias of shape (C,).

    Source: ConvNeXt paper, appendix A; eps 1e-6 in every ConvNeXt.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, H, W) over C."""
        return layer_norm_2d(x, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Channels and eps, for printing."""
        return f"{self.weight.numel()}, eps={self.eps}"
