"""LargeKernelConv2d: a large depthwise convolution in the branches that make it trainable.

Sources: Ding et al., RepLKNet, CVPR 2022 (square kernel and a small one beside it); Liu et al.,
SLaK, ICLR 2023 (two strips and a small one).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from convnext.layers.depthwise import DepthwiseConv2d
from convnext.layers.merging import ConvNorm, State, conv_state

SHARED = ("tall", "square")  # the branch that takes the small one in, and the bias


class LargeKernelConv2d(nn.Module):
    """Sum of depthwise convolutions, each with its batch norm; shapes (N, C, H, W) in and out.

        decomposed    tall M x N  +  wide N x M  +  small N x N
        else          square M x M  +  small N x N
        N >= M or 0   square M x M

    Args:
        channels: C.
        kernel_size: M, odd.
        small_kernel: N, odd, or 0.
        decomposed: Two strips in place of the square.
        merged: The form for deployment: no norms, the small kernel added into the first branch.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        small_kernel: int,
        decomposed: bool = False,
        merged: bool = False,
    ) -> None:
        super().__init__()
        large, small = kernel_size, small_kernel
        shapes = {"square": (large, large)}
        if 0 < small < large:
            if decomposed:
                shapes = {"tall": (large, small), "wide": (small, large)}
            if not merged:
                shapes["small"] = (small, small)
        for name, shape in shapes.items():
            conv = DepthwiseConv2d(channels, shape, bias=merged and name in SHARED)
            self.add_module(name, ConvNorm(conv, norm=not merged))
        self.branches = tuple(shapes)

    def forward(self, x: Tensor) -> Tensor:
        """The sum of all branches."""
        first, *others = (self.get_submodule(name) for name in self.branches)
        out: Tensor = first(x)
        for branch in others:
            out = out + branch(x)
        return out

    def merged_state(self) -> State:
        """State dict of the merged form."""
        folded = {}
        for name in self.branches:
            branch = self.get_submodule(name)
            assert isinstance(branch, ConvNorm)
            folded[name] = branch.folded()
        bias = sum(summand for _, summand in folded.values())
        assert isinstance(bias, Tensor)
        name = self.branches[0]
        weight = folded[name][0]
        if "small" in folded:
            small = folded["small"][0]
            high, wide = ((weight.shape[i] - small.shape[i]) // 2 for i in (2, 3))
            weight = weight + F.pad(small, (wide, wide, high, high))
        like = next(self.parameters())
        state = conv_state(weight, bias, like=like, prefix=f"{name}.conv.")
        if "wide" in folded:
            state |= conv_state(folded["wide"][0], None, like=like, prefix="wide.conv.")
        return state
