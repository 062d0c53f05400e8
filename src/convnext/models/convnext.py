"""ConvNeXt V1, V2 and isotropic: one network, one table.

Sources: Liu et al., A ConvNet for the 2020s, CVPR 2022 (section 2, section 3.3, appendix A);
Woo et al., ConvNeXt V2, CVPR 2023 (section 3.2, table 14).

    image --stem--> [stage 1..4: (norm, 2x2 conv) then blocks] --mean--> norm --> head
    block: x + DropPath(γ · Linear(GRN?(GELU(Linear(LN(depthwise7x7(x)))))))
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convnext.layers.depthwise import DepthwiseConv2d
from convnext.layers.drop_path import DropPath
from convnext.layers.grn import GRN
from convnext.layers.large_kernel import LargeKernelConv2d
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
        kernel_size: Side of the depthwise kernels, odd: one for all stages or one for each.
        small_kernel: Side of a small kernel trained beside the large one, or of the strips; then
            every branch has a batch norm (SLaK, RepLKNet). 0: one convolution with a bias.
        decomposed: Two strips M x N and N x M in place of M x M (SLaK).
        width_factor: Factor on ``dims``, rounded down (SLaK: 1.3).
        width_multiple: Make the widths multiples of this, to the nearest (8 suits tensor cores).
        merged: The form for deployment, see `convnext.merge`.

    Raises:
        ValueError: A value is out of its range.
    """

    dims: tuple[int, ...]
    stem_stride: int = 4
    isotropic: bool = False
    grn: bool = False
    layer_scale_init_value: float = 1e-6
    kernel_size: int | tuple[int, ...] = 7
    small_kernel: int = 0
    decomposed: bool = False
    width_factor: float = 1.0
    width_multiple: int = 1
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
        check_kernels(self.kernel_sizes, self.small_kernel, len(self.depths))
        if self.decomposed and not self.small_kernel:
            raise ValueError("decomposed kernels need a small_kernel: the short side of the strips")
        if self.merged and not self.small_kernel:
            raise ValueError("only a network with a small_kernel has branches to be merged")
        narrowest = min(self.dims) * self.width_factor
        if self.width_multiple < 1 or not 1 <= narrowest < math.inf:
            raise ValueError(
                f"width_factor {self.width_factor} and width_multiple {self.width_multiple} must "
                "leave at least one channel"
            )

    @property
    def kernel_sizes(self) -> tuple[int, ...]:
        """Side of each stage's depthwise kernels."""
        size = self.kernel_size
        return size if isinstance(size, tuple) else (size,) * len(self.depths)

    @property
    def plain(self) -> bool:
        """Whether the depthwise kernels are 7x7 without branches, as in V1 and V2."""
        return set(self.kernel_sizes) == {7} and not self.small_kernel

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each stage's output."""
        widths, multiple = (int(dim * self.width_factor) for dim in self.dims), self.width_multiple
        return tuple(max(multiple, round(w / multiple) * multiple) for w in widths)

    @property
    def reductions(self) -> tuple[int, ...]:
        """Stride of each stage's output against the input."""
        return tuple(self.stem_stride * 2**i for i in range(len(self.depths)))


def check_kernels(sizes: Sequence[int], small: int, num_stages: int) -> None:
    """Refuse kernels that no stage can have.

    Raises:
        ValueError: Naming them.
    """
    if len(sizes) != num_stages:
        raise ValueError(f"kernel_size {sizes} must have one entry for each of {num_stages} stages")
    bad = [size for size in sizes if not isinstance(size, int) or size < 1 or size % 2 == 0]
    if bad:
        raise ValueError(f"kernel_size {bad[0]} must be odd and positive: even ones have no centre")
    if small < 0 or (small and small % 2 == 0):
        raise ValueError(f"small_kernel {small} must be odd, or 0 for none")


class Block(nn.Module):
    """Depthwise 7x7, LayerNorm, and an inverted bottleneck of two pointwise linear layers.

    Shapes: (N, C, H, W) in and out. Source: ConvNeXt figure 4; V2 figure 5.
    """

    def __init__(
        self,
        dim: int,
        drop_path: float,
        layer_scale: float,
        grn: bool,
        dwconv: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), layer_scale)) if layer_scale > 0 else None
        self.dwconv = DepthwiseConv2d(dim, kernel_size=7) if dwconv is None else dwconv
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.grn = GRN(4 * dim) if grn else None
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.drop_path = DropPath(drop_path)

    def forward(
        self,
        x: Tensor,
        mix: Callable[[Tensor], Tensor] | None = None,
        keep: Tensor | None = None,
    ) -> Tensor:
        """Add DropPath(γ · mlp(norm(dwconv(x)))) to x.

        Masked pre-training has two ways to hide positions. With ``mix`` in place of the depthwise
        convolution they may lie in any way: the visible ones come alone. With ``keep``
        (N, H, W, 1), 1 or 0, all are computed: hidden ones get no branch and do not count in GRN.
        """
        mixed = self.dwconv(x) if mix is None else mix(x)
        branch: Tensor = self.norm(mixed.permute(0, 2, 3, 1))  # N, H, W, C
        branch = self.pwconv1(branch)  # N, H, W, 4C
        reuse = self._may_reuse_memory()
        branch = torch.ops.aten.gelu_(branch) if reuse else F.gelu(branch)
        if self.grn is not None:
            # hidden positions as zeros leave the norms over positions as they are without them
            branch = self.grn(branch if keep is None else branch * keep.to(branch.dtype))
        branch = self.pwconv2(branch)
        if keep is not None:
            branch = branch * keep.to(branch.dtype)
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
        stride, dim = config.stem_stride, config.channels[0]
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
        stages, dims, scale = [], config.channels, config.layer_scale_init_value
        for i, (dim, rates) in enumerate(zip(dims, config.drop_path_rates(), strict=True)):
            downsample = Downsample(dims[i - 1], dim) if i else None
            blocks: list[nn.Module] = [
                Block(dim, rate, scale, config.grn, _dwconv(config, i)) for rate in rates
            ]
            stages.append(Stage(downsample, blocks))
        self.stages = nn.ModuleList(stages)
        if not config.features_only:
            self.norm = nn.LayerNorm(self.num_features, eps=NORM_EPS)
            self.head = nn.Identity()
        self.apply(_init_weights)
        if not config.features_only:
            self.reset_classifier(config.num_classes, config.head_init_scale)


def _dwconv(config: ConvNeXtConfig, stage: int) -> nn.Module:
    dim, size, small = config.channels[stage], config.kernel_sizes[stage], config.small_kernel
    if not small:
        return DepthwiseConv2d(dim, size)
    return LargeKernelConv2d(dim, size, small, config.decomposed, config.merged)


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
