"""ConvNeXt V1, V2 and isotropic: one network, one table.

Sources: Liu et al., A ConvNet for the 2020s, CVPR 2022 (section 2, section 3.3, appendix A);
Woo et al., ConvNeXt V2, CVPR 2023 (section 3.2, table 14).

    image --stem--> [stage 1..4: (norm, 2x2 conv) then blocks] --mean--> norm --> head
    block: x + DropPath(γ · Linear(GRN?(GELU(Linear(LN(depthwise7x7(x)))))))
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convnext.layers.depthwise import DepthwiseConv2d
from convnext.layers.drop_path import DropPath
from convnext.layers.grn import GRN
from convnext.layers.layer_norm import LayerNorm2d
from convnext.models.backbone import Backbone, BackboneConfig, Stage, init_linear
from convnext.models.registry import register
from convnext.ops.dispatch import use_reference

NORM_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class ConvNeXtConfig(BackboneConfig):
    """Shape of a ConvNeXt; the other fields are those of every network.

    Attributes:
        dims: Channels of each stage.
        stem_stride: 4 is the paper's 4x4 patchify stem (16 for isotropic); 2 and 1 keep more
            resolution for images of 32 to 128 px.
        isotropic: One stage at stride 16 without stem norm (paper section 3.3).
        grn: Global response normalisation in every block (V2).
        layer_scale_init_value: Start of γ; 0 builds no γ (V2, isotropic S and B).

    Raises:
        ValueError: A value is out of its range.
    """

    dims: tuple[int, ...]
    stem_stride: int = 4
    isotropic: bool = False
    grn: bool = False
    layer_scale_init_value: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "dims", tuple(self.dims))  # JSON has lists only
        if len(self.depths) != len(self.dims):
            raise ValueError(
                f"depths {self.depths} and dims {self.dims} must have one entry for each stage"
            )
        if min(self.dims) < 1:
            raise ValueError(f"dims {self.dims} must be at least 1")
        if self.isotropic and len(self.depths) != 1:
            raise ValueError(f"an isotropic network has one stage, not {len(self.depths)}")
        strides = (16,) if self.isotropic else (1, 2, 4)
        if self.stem_stride not in strides:
            raise ValueError(f"stem_stride {self.stem_stride} must be one of {strides}")
        if self.layer_scale_init_value < 0:
            raise ValueError(
                f"layer_scale_init_value {self.layer_scale_init_value} must be 0 (none) or more"
            )

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each stage's output."""
        return self.dims

    @property
    def reductions(self) -> tuple[int, ...]:
        """Stride of each stage's output against the input."""
        return tuple(self.stem_stride * 2**i for i in range(len(self.depths)))


class Block(nn.Module):
    """Depthwise 7x7, LayerNorm, and an inverted bottleneck of two pointwise linear layers.

    Shapes: (N, C, H, W) in and out. Source: ConvNeXt figure 4; V2 figure 5.
    """

    def __init__(self, dim: int, drop_path: float, layer_scale: float, grn: bool) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), layer_scale)) if layer_scale > 0 else None
        self.dwconv = DepthwiseConv2d(dim, kernel_size=7)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.grn = GRN(4 * dim) if grn else None
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, mix: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Add DropPath(γ · mlp(norm(dwconv(x)))) to x.

        With ``mix`` in place of the depthwise convolution, positions may lie in any way: masked
        pre-training gives the visible ones alone.
        """
        mixed = self.dwconv(x) if mix is None else mix(x)
        branch: Tensor = self.norm(mixed.permute(0, 2, 3, 1))  # N, H, W, C
        branch = self.pwconv1(branch)  # N, H, W, 4C
        reuse = self._may_reuse_memory()
        branch = torch.ops.aten.gelu_(branch) if reuse else F.gelu(branch)
        if self.grn is not None:
            branch = self.grn(branch)
        branch = self.pwconv2(branch)
        if use_reference():
            # The order of operations decides the last bits and the layout of the sum in memory.
            if self.gamma is not None:
                branch = self.gamma * branch
            branch = self.drop_path(branch.permute(0, 3, 1, 2))
            return x + branch
        branch = self.drop_path(branch).permute(0, 3, 1, 2)
        out = branch if reuse else None
        if self.gamma is None:
            return torch.add(x, branch, out=out)
        return torch.addcmul(x, branch, self.gamma.to(branch.dtype)[:, None, None], out=out)

    def _may_reuse_memory(self) -> bool:
        """Whether the linear layers' outputs are ours alone, to be overwritten.

        On a CPU a new large tensor costs as much as the pass over it. Not with gradients, not
        where a hook may hold the output, and not under a compiler, which plans memory itself.
        """
        hooked = self.pwconv1._forward_hooks or self.pwconv2._forward_hooks
        free = not (torch.is_grad_enabled() or torch.is_autocast_enabled() or hooked)
        return free and not (torch.compiler.is_compiling() or use_reference())


class Downsample(nn.Module):
    """LayerNorm over channels, then a 2x2 convolution of stride 2 (norm first, as published)."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.norm = LayerNorm2d(in_dim, NORM_EPS)
        self.conv = nn.Conv2d(in_dim, dim, kernel_size=2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C, H // 2, W // 2)."""
        return cast(Tensor, self.conv(self.norm(x)))


class Stem(nn.Module):
    """Patchify convolution, then LayerNorm over channels (none in isotropic networks)."""

    def __init__(self, config: ConvNeXtConfig) -> None:
        super().__init__()
        # Stride 2 keeps the 4x4 kernel, so that published stem weights fit it too.
        stride, dim = config.stem_stride, config.dims[0]
        kernel, padding = {1: (3, 1), 2: (4, 1)}.get(stride, (stride, 0))
        self.conv = nn.Conv2d(config.in_chans, dim, kernel, stride, padding)
        self.norm = None if config.isotropic else LayerNorm2d(dim, NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) to (N, C, H // stride, W // stride)."""
        if x.device.type == "cpu" and not use_reference():
            # Convolutions, norms and linear layers are all fastest on CPUs in this layout.
            x = x.contiguous(memory_format=torch.channels_last)
            # With one channel both layouts are one, and the convolution may choose the other.
            x = self.conv(x).contiguous(memory_format=torch.channels_last)
        else:
            x = self.conv(x)
        return x if self.norm is None else self.norm(x)


class ConvNeXt(Backbone):
    """ConvNeXt V1, V2 and isotropic; remainders of the strides are dropped."""

    def __init__(self, config: ConvNeXtConfig) -> None:
        super().__init__()
        self.config: ConvNeXtConfig = config
        self.stem = Stem(config)
        stages = []
        for i, (dim, rates) in enumerate(zip(config.dims, config.drop_path_rates(), strict=True)):
            downsample = Downsample(config.dims[i - 1], dim) if i else None
            blocks: list[nn.Module] = [
                Block(dim, rate, config.layer_scale_init_value, config.grn) for rate in rates
            ]
            stages.append(Stage(downsample, blocks))
        self.stages = nn.ModuleList(stages)
        if not config.features_only:
            self.norm = nn.LayerNorm(self.num_features, eps=NORM_EPS)
            self.head = nn.Identity()
        self.apply(_init_weights)
        if not config.features_only:
            self.reset_classifier(config.num_classes, config.head_init_scale)


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        init_linear(module)


def _dims(first: int) -> tuple[int, ...]:
    return tuple(first * 2**i for i in range(4))


# size: (depths, first width). V2 tables 14/15; V1 table 9 and appendix A.
_COMMON_SIZES = {
    "atto": ((2, 2, 6, 2), 40),
    "femto": ((2, 2, 6, 2), 48),
    "pico": ((2, 2, 6, 2), 64),
    "nano": ((2, 2, 8, 2), 80),
    "tiny": ((3, 3, 9, 3), 96),
    "small": ((3, 3, 27, 3), 96),
    "base": ((3, 3, 27, 3), 128),
    "large": ((3, 3, 27, 3), 192),
}
_V1_SIZES = {**_COMMON_SIZES, "xlarge": ((3, 3, 27, 3), 256)}
_V2_SIZES = {**_COMMON_SIZES, "huge": ((3, 3, 27, 3), 352)}
# Isotropic, paper table 2: depth, width, layer scale (only L is trained with it).
_ISOTROPIC_SIZES = {"small": (18, 384, 0.0), "base": (18, 768, 0.0), "large": (36, 1024, 1e-6)}

register(
    ConvNeXt,
    {
        f"convnext_{size}": ConvNeXtConfig(depths=depths, dims=_dims(width))
        for size, (depths, width) in _V1_SIZES.items()
    },
)
register(
    ConvNeXt,
    {
        f"convnextv2_{size}": ConvNeXtConfig(
            depths=depths, dims=_dims(width), grn=True, layer_scale_init_value=0.0
        )
        for size, (depths, width) in _V2_SIZES.items()
    },
)
register(
    ConvNeXt,
    {
        f"convnext_isotropic_{size}": ConvNeXtConfig(
            depths=(depth,),
            dims=(width,),
            stem_stride=16,
            isotropic=True,
            layer_scale_init_value=scale,
        )
        for size, (depth, width, scale) in _ISOTROPIC_SIZES.items()
    },
)
