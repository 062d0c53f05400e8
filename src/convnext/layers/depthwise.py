"""DepthwiseConv2d: one filter a channel, size kept."""

from torch import Tensor, nn

from convnext.ops.depthwise import depthwise_conv2d


class DepthwiseConv2d(nn.Conv2d):
    """Depthwise convolution with zero padding of half the kernel and stride 1.

    Weight (C, 1, k_h, k_w), bias (C,) if any, both sides odd. Source: ConvNeXt section 2.3.

    Args:
        channels: C.
        kernel_size: k, or (k_h, k_w).
        bias: Whether there is a bias.
    """

    def __init__(
        self, channels: int, kernel_size: int | tuple[int, int], bias: bool = True
    ) -> None:
        height, width = (kernel_size,) * 2 if isinstance(kernel_size, int) else kernel_size
        super().__init__(
            channels,
            channels,
            (height, width),
            padding=(height // 2, width // 2),
            groups=channels,
            bias=bias,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        return depthwise_conv2d(x, self.weight, self.bias)
