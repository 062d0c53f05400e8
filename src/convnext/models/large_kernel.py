"""Large-kernel networks: SLaK, RepLKNet, and their merged forms for deployment.

Sources: Liu et al., More ConvNets in the 2020s, ICLR 2023 (SLaK); Ding et al., Scaling Up Your
Kernels to 31x31, CVPR 2022 (RepLKNet).

SLaK is a ConvNeXt whose depthwise kernels are strips: `models/convnext.py`. RepLKNet:

    image --stem--> [stage 1..4: transition, units] --norm--> mean --> head
    unit: x + conv1x1(relu(large(conv1x1(norm(x))))), then x + conv1x1(gelu(conv1x1(norm(x))))
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convnext.layers.drop_path import DropPath
from convnext.layers.large_kernel import LargeKernelConv2d
from convnext.layers.merging import (
    ConvNorm,
    Norm,
    State,
    conv_state,
    fold_before,
    merged_state,
)
from convnext.models.backbone import Backbone, BackboneConfig, Stage
from convnext.models.convnext import ConvNeXt, ConvNeXtConfig, check_kernels
from convnext.models.registry import register

__all__ = ["RepLKNet", "RepLKNetConfig", "merge"]


@dataclass(frozen=True, kw_only=True)
class RepLKNetConfig(BackboneConfig):
    """Shape of a RepLKNet; the other fields are those of every network.

    Attributes:
        depths: Units of each stage, two residual blocks each.
        dims: Channels of each stage.
        kernel_size: Side of each stage's large kernels, odd; one number for all.
        small_kernel: Side of the small kernel trained beside them; 0 for none.
        expansion: Channels of the large convolution, as a multiple of the stage's.
        merged: The form for deployment, see `merge`.

    Raises:
        ValueError: A value is out of its range.
    """

    dims: tuple[int, ...]
    depths: tuple[int, ...] = (2, 2, 18, 2)
    kernel_size: int | tuple[int, ...] = (31, 29, 27, 13)
    small_kernel: int = 5
    expansion: float = 1.0
    merged: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "dims", tuple(self.dims))  # JSON has lists only
        if not isinstance(self.kernel_size, int | float):  # a float is refused below
            object.__setattr__(self, "kernel_size", tuple(self.kernel_size))
        if len(self.depths) != len(self.dims):
            raise ValueError(
                f"depths {self.depths} and dims {self.dims} must have one entry for each stage"
            )
        if min(self.dims) < 1 or not 1 <= self.expansion * min(self.dims) < math.inf:
            raise ValueError(f"dims {self.dims} and expansion {self.expansion} leave no channels")
        check_kernels(self.kernel_sizes, self.small_kernel, len(self.depths))

    @property
    def kernel_sizes(self) -> tuple[int, ...]:
        """Side of each stage's large kernels."""
        size = self.kernel_size
        return size if isinstance(size, tuple) else (size,) * len(self.depths)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each stage's output."""
        return self.dims

    @property
    def reductions(self) -> tuple[int, ...]:
        """Stride of each stage's output against the input."""
        return tuple(4 * 2**i for i in range(len(self.depths)))


def _conv(
    in_dim: int, dim: int, merged: bool, kernel: int = 1, stride: int = 1, groups: int = 1
) -> ConvNorm:
    conv = nn.Conv2d(in_dim, dim, kernel, stride, kernel // 2, groups=groups, bias=merged)
    return ConvNorm(conv, norm=not merged)


def _norm(dim: int, merged: bool) -> nn.Module:
    return nn.Identity() if merged else nn.BatchNorm2d(dim)


class Branch(nn.Module):
    """What both halves of a unit share: norm, 1x1 in, something, 1x1 out, added to the input."""

    def __init__(self, dim: int, hidden: int, drop_path: float, merged: bool) -> None:
        super().__init__()
        self.norm = _norm(dim, merged)
        self.pwconv1 = _conv(dim, hidden, merged)
        self.pwconv2 = _conv(hidden, dim, merged)
        self.drop_path = DropPath(drop_path)

    def merged_state(self) -> State:
        """State dict of the merged form: the norm goes into the first convolution."""
        weight, bias = fold_before(cast(Norm, self.norm), *self.pwconv1.folded())
        like = self.pwconv1.conv.weight
        state = conv_state(weight, bias, like=like, prefix="pwconv1.conv.")
        for name, child in self.named_children():
            if name not in ("norm", "pwconv1"):
                state |= {f"{name}.{key}": value for key, value in merged_state(child).items()}
        return state


class LargeKernelBranch(Branch):
    """The half of a unit that looks far."""

    def __init__(self, config: RepLKNetConfig, stage: int, drop_path: float) -> None:
        dim, merged = config.dims[stage], config.merged
        hidden = int(dim * config.expansion)
        super().__init__(dim, hidden, drop_path, merged)
        self.dwconv = LargeKernelConv2d(
            hidden, config.kernel_sizes[stage], config.small_kernel, merged=merged
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        branch = F.relu(self.pwconv1(self.norm(x)))
        branch = self.pwconv2(F.relu(self.dwconv(branch)))
        return x + cast(Tensor, self.drop_path(branch))


class FeedForward(Branch):
    """The half of a unit that mixes channels."""

    def __init__(self, dim: int, drop_path: float, merged: bool) -> None:
        super().__init__(dim, 4 * dim, drop_path, merged)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        branch = self.pwconv2(F.gelu(self.pwconv1(self.norm(x))))
        return x + cast(Tensor, self.drop_path(branch))


class Unit(nn.Module):
    """A large-kernel block and a feed-forward block with the same stochastic depth."""

    def __init__(self, config: RepLKNetConfig, stage: int, drop_path: float) -> None:
        super().__init__()
        self.large = LargeKernelBranch(config, stage, drop_path)
        self.ffn = FeedForward(config.dims[stage], drop_path, config.merged)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        return cast(Tensor, self.ffn(self.large(x)))


class Stem(nn.Module):
    """3x3 of stride 2, depthwise 3x3, 1x1, depthwise 3x3 of stride 2; ReLU after each."""

    def __init__(self, config: RepLKNetConfig) -> None:
        super().__init__()
        dim, merged = config.dims[0], config.merged
        self.layers = nn.ModuleList(
            [
                _conv(config.in_chans, dim, merged, kernel=3, stride=2),
                _conv(dim, dim, merged, kernel=3, groups=dim),
                _conv(dim, dim, merged),
                _conv(dim, dim, merged, kernel=3, stride=2, groups=dim),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) to (N, C, H / 4, W / 4)."""
        if x.device.type == "cpu":
            x = x.contiguous(memory_format=torch.channels_last)  # the fast layout on CPUs
        for layer in self.layers:
            x = F.relu(layer(x))
        return x


class Transition(nn.Module):
    """1x1 to twice the channels, depthwise 3x3 of stride 2; ReLU after each."""

    def __init__(self, in_dim: int, dim: int, merged: bool) -> None:
        super().__init__()
        self.pwconv = _conv(in_dim, dim, merged)
        self.dwconv = _conv(dim, dim, merged, kernel=3, stride=2, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C, H / 2, W / 2)."""
        return F.relu(self.dwconv(F.relu(self.pwconv(x))))


class RepLKNet(Backbone):
    """RepLKNet; convolutions start as PyTorch draws them, the head with std 0.02."""

    def __init__(self, config: RepLKNetConfig) -> None:
        super().__init__()
        self.config: RepLKNetConfig = config
        self.stem = Stem(config)
        stages = []
        for i, (dim, rates) in enumerate(zip(config.dims, config.drop_path_rates(), strict=True)):
            transition = Transition(config.dims[i - 1], dim, config.merged) if i else None
            stages.append(Stage(transition, [Unit(config, i, rate) for rate in rates]))
        self.stages = nn.ModuleList(stages)
        if not config.features_only:
            self.norm = _norm(self.num_features, config.merged)
            self.head = nn.Identity()
            self.reset_classifier(config.num_classes, config.head_init_scale)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Normalise (N, C, H', W'), pool over positions, classify."""
        x = self.norm(x).mean([-2, -1])
        return x if pre_logits else cast(Tensor, self.head(x))

    def merged_state(self) -> State:
        """State dict of the merged form: the last norm goes through the mean into the head.

        Raises:
            ValueError: There is no head to take the last norm in.
        """
        parts = {"stem": self.stem, "stages": self.stages}
        state = {f"{p}.{k}": v for p, m in parts.items() for k, v in merged_state(m).items()}
        if self.config.features_only:
            return state
        if not isinstance(self.head, nn.Linear):
            raise ValueError(
                "merging needs a head that takes in the last norm: build the network with classes, "
                "or with features_only"
            )
        weight, bias = fold_before(cast(Norm, self.norm), self.head.weight, self.head.bias)
        return state | conv_state(
            weight.detach(), bias.detach(), like=self.head.weight, prefix="head."
        )

    def _layer_id(self, name: str, rule: Literal["single", "group"]) -> int | None:
        """As every network, but a group of the third stage is two units."""
        stage, _, rest = name.removeprefix("stages.").partition(".")
        if rule == "group" and stage == "2" and rest.startswith("blocks."):
            return min(3 + int(rest.split(".")[1]) // 2, 11)
        return super()._layer_id(name, rule)


def merge(network: Backbone) -> Backbone:
    """The same function for deployment: batch norms folded, branches added up.

    A SLaK keeps two strip convolutions in each block, a RepLKNet one large kernel and no batch
    norm at all. Synchronised norms merge as well. A network without branches, or one that is
    merged already, is returned as it is.

    Args:
        network: Its running statistics are used, whatever its mode.

    Returns:
        A new network in evaluation mode, on the same device and in the same precision.

    Raises:
        ValueError: A RepLKNet without head and without ``features_only``.
    """
    config: Any = network.config
    if not isinstance(network, ConvNeXt | RepLKNet) or config.merged:
        return network
    if isinstance(network, ConvNeXt) and not config.small_kernel:
        return network
    like = next(network.parameters())
    with torch.device("meta"):
        merged = type(network)(replace(config, merged=True, num_classes=_classes(network)))
    merged = merged.to_empty(device=like.device).to(like.dtype)
    merged.load_state_dict(merged_state(network))
    return cast(Backbone, merged.eval())


def _classes(network: Backbone) -> int:
    """Outputs of the head as it is now; it may have been replaced."""
    head = getattr(network, "head", None)
    return head.out_features if isinstance(head, nn.Linear) else 0


def _slak(depths: tuple[int, ...], first: int, kernels: tuple[int, ...]) -> ConvNeXtConfig:
    return ConvNeXtConfig(
        depths=depths,
        dims=tuple(first * 2**i for i in range(4)),
        width_factor=1.3,
        kernel_size=kernels,
        small_kernel=5,
        decomposed=True,
    )


SLAK_KERNELS = (51, 49, 47, 13)
register(
    ConvNeXt,
    {
        "slak_tiny": _slak((3, 3, 9, 3), 96, SLAK_KERNELS),
        "slak_small": _slak((3, 3, 27, 3), 96, SLAK_KERNELS),
        "slak_base": _slak((3, 3, 27, 3), 128, SLAK_KERNELS),
    },
)
register(
    RepLKNet,
    {
        "replknet_31b": RepLKNetConfig(dims=(128, 256, 512, 1024)),
        "replknet_31l": RepLKNetConfig(dims=(192, 384, 768, 1536)),
        "replknet_xl": RepLKNetConfig(
            dims=(256, 512, 1024, 2048),
            kernel_size=(27, 27, 27, 13),
            small_kernel=0,
            expansion=1.5,
        ),
    },
)
