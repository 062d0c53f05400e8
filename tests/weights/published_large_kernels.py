"""SLaK and RepLKNet under their published names, from the papers' definitions in plain torch."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn


def conv_bn(in_dim, dim, kernel, stride=1, groups=1, bn=True):
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = tuple(side // 2 for side in kernel)
    layers = {"conv": nn.Conv2d(in_dim, dim, kernel, stride, padding, groups=groups, bias=False)}
    if bn:
        layers["bn"] = nn.BatchNorm2d(dim)
    result = nn.Sequential()
    for name, layer in layers.items():
        result.add_module(name, layer)
    return result


class LargeKernel(nn.Module):
    """A depthwise convolution in branches; ``strips`` names the two strips."""

    def __init__(self, dim, large, small, strips=(), bn=True):
        super().__init__()
        shapes = {"lkb_origin": (large, large)}
        if strips:
            shapes = {strips[0]: (large, small), strips[1]: (small, large)}
        if small is not None and small < large:
            shapes["small_conv"] = (small, small)
        for name, shape in shapes.items():
            self.add_module(name, conv_bn(dim, dim, shape, groups=dim, bn=bn))

    def forward(self, x):
        return sum(branch(x) for branch in self.children())

    @torch.no_grad()
    def merge(self):
        """One square kernel with a bias, as the published code merges square branches."""
        conv = self.lkb_origin.conv
        side = conv.kernel_size[0]
        merged = nn.Conv2d(
            conv.in_channels, conv.in_channels, side, 1, side // 2, groups=conv.in_channels
        )
        merged.weight.zero_()
        merged.bias.zero_()
        for branch in list(self.children()):
            bn, edge = branch.bn, (side - branch.conv.kernel_size[0]) // 2
            factor = bn.weight / (bn.running_var + bn.eps).sqrt()
            merged.weight += F.pad(branch.conv.weight * factor[:, None, None, None], [edge] * 4)
            merged.bias += bn.bias - bn.running_mean * factor
        for name in list(self._modules):
            delattr(self, name)
        self.lkb_reparam = merged


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (N, C, H, W)."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SLaKBlock(nn.Module):
    def __init__(self, dim, large, small, strips, bn):
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(dim))
        self.large_kernel = LargeKernel(dim, large, small, strips, bn)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1, self.pwconv2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x):
        y = self.norm(self.large_kernel(x).permute(0, 2, 3, 1))
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        return x + y.permute(0, 3, 1, 2)


class SLaK(nn.Module):
    def __init__(
        self,
        depths,
        dims,
        kernels,
        small=5,
        strips=("LoRA1", "LoRA2"),
        classes=10,
        chans=3,
        bn=True,
    ):
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(chans, dims[0], 4, 4), ChannelNorm(dims[0], eps=1e-6))
        self.downsample_layers = nn.ModuleList([stem])
        for a, b in pairwise(dims):
            layers = nn.Sequential(ChannelNorm(a, eps=1e-6), nn.Conv2d(a, b, 2, 2))
            self.downsample_layers.append(layers)
        self.stages = nn.ModuleList(
            nn.Sequential(*[SLaKBlock(dim, kernel, small, strips, bn) for _ in range(depth)])
            for depth, dim, kernel in zip(depths, dims, kernels, strict=True)
        )
        self.norm, self.head = nn.LayerNorm(dims[-1], eps=1e-6), nn.Linear(dims[-1], classes)

    def forward(self, x):
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
        return self.head(self.norm(x.mean((2, 3))))


class RepLKBlock(nn.Module):
    def __init__(self, dim, inner, large, small):
        super().__init__()
        self.prelkb_bn = nn.BatchNorm2d(dim)
        self.pw1, self.pw2 = conv_bn(dim, inner, 1), conv_bn(inner, dim, 1)
        self.large_kernel = LargeKernel(inner, large, small)

    def forward(self, x):
        y = F.relu(self.large_kernel(F.relu(self.pw1(self.prelkb_bn(x)))))
        return x + self.pw2(y)


class ConvFFN(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.preffn_bn = nn.BatchNorm2d(dim)
        self.pw1, self.pw2 = conv_bn(dim, 4 * dim, 1), conv_bn(4 * dim, dim, 1)

    def forward(self, x):
        return x + self.pw2(F.gelu(self.pw1(self.preffn_bn(x))))


class RepLKStage(nn.Module):
    def __init__(self, depth, dim, inner, large, small):
        super().__init__()
        self.blocks = nn.ModuleList()
        for _ in range(depth):
            self.blocks.extend([RepLKBlock(dim, inner, large, small), ConvFFN(dim)])


class RepLKNet(nn.Module):
    def __init__(self, depths, dims, kernels, small=5, ratio=1.0, classes=10, chans=3):
        super().__init__()
        first = dims[0]
        self.stem = nn.ModuleList(
            [
                conv_bn(chans, first, 3, 2),
                conv_bn(first, first, 3, groups=first),
                conv_bn(first, first, 1),
                conv_bn(first, first, 3, 2, groups=first),
            ]
        )
        self.stages = nn.ModuleList(
            RepLKStage(depth, dim, int(dim * ratio), kernel, small)
            for depth, dim, kernel in zip(depths, dims, kernels, strict=True)
        )
        self.transitions = nn.ModuleList(
            nn.Sequential(conv_bn(a, b, 1), conv_bn(b, b, 3, 2, groups=b))
            for a, b in pairwise(dims)
        )
        self.norm, self.head = nn.BatchNorm2d(dims[-1]), nn.Linear(dims[-1], classes)

    def forward(self, x):
        for layer in self.stem:
            x = F.relu(layer(x))
        for i, stage in enumerate(self.stages):
            for layer in self.transitions[i - 1] if i else ():
                x = F.relu(layer(x))
            for block in stage.blocks:
                x = block(x)
        return self.head(self.norm(x).mean((2, 3)))


@torch.no_grad()
def drawn(network):
    """Random values in all norms and biases, in evaluation mode."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(std=0.2)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 1.5)
            module.num_batches_tracked.fill_(7)
    return network.eval()


def reparameterised(network):
    """The network after the published code has merged its square branches."""
    for module in list(network.modules()):
        if isinstance(module, LargeKernel):
            module.merge()
    return network


@torch.no_grad()
def fused(network):
    """The network after the published code has folded each norm behind a convolution."""
    for module in network.modules():
        bn = getattr(module, "bn", None)
        if isinstance(bn, nn.BatchNorm2d):
            conv, factor = module.conv, bn.weight / (bn.running_var + bn.eps).sqrt()
            conv.weight *= factor[:, None, None, None]
            conv.bias = nn.Parameter(bn.bias - bn.running_mean * factor)
            module.bn = nn.Identity()
    return network
