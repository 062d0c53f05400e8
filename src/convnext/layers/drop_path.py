"""DropPath: stochastic depth per sample."""

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Drop the residual branch of a sample with probability ``rate`` in training, rescale the rest.

    y = x / keep · floor(keep + u), u ~ U[0, 1) per sample, keep = 1 - rate.

    Args:
        rate: Probability in [0, 1).

    Raises:
        ValueError: The rate is outside [0, 1).

    Source: Huang et al., Deep Networks with Stochastic Depth, 2016.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"drop path rate {rate} is outside [0, 1); choose e.g. 0.1")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Apply to (N, ...); the identity in evaluation or at rate 0."""
        if self.rate == 0.0 or not self.training:
            return x
        keep = 1.0 - self.rate
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        mask = torch.rand(shape, dtype=torch.float32, device=x.device).add_(keep).floor_()
        return x * (mask / keep).to(x.dtype)

    def extra_repr(self) -> str:
        """The rate, for printing."""
        return f"rate={self.rate:.3f}"
