"""DepthwiseConv2d: one k x k filter a channel, size kept."""

from torch import Tensor, nn

from convnext.ops.depthwise import depthwise_conv2d


class DepthwiseConv2d(nn.Conv2d):
    """Depthwise convolution with zero padding of half the kernel, stride 1 and a bias.

    Weight (C, 1, k, k), bias (C,), k odd. Source: ConvNeXt section 2.3.
    """

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        assert self.bias is not None
        return depthwise_conv2d(x, self.weight, self.bias)
