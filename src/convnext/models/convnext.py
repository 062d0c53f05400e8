"""ConvNeXt V1, V2 and isotropic: one network, one table.

Sources: Liu et al., A ConvNet for the 2020s, CVPR 2022 (section 2, section 3.3, appendix A);
Woo et al., ConvNeXt V2, CVPR 2023 (section 3.2, table 14).

    image --stem--> [stage 1..4: (norm, 2x2 conv) then blocks] --mean--> norm --> head
    block: x + DropPath(γ · Linear(GRN?(GELU(Linear(LN(depthwise7x7(x)))))))
"""

from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from convnext.layers.depthwise import DepthwiseConv2d
from convnext.layers.drop_path import DropPath
from convnext.layers.grn import GRN
from convnext.layers.layer_norm import LayerNorm2d
from convnext.models.registry import FeatureInfo, register
from convnext.ops.dispatch import use_reference

NORM_EPS = 1e-6
INIT_STD = 0.02  # the paper's table 5 prints 0.2, the published code and models use 0.02


@dataclass(frozen=True, kw_only=True)
class ConvNeXtConfig:
    """Shape of a ConvNeXt.

    Attributes:
        depths: Blocks of each stage.
        dims: Channels of each stage.
        stem_stride: 4 is the paper's 4x4 patchify stem (16 for isotropic); 2 and 1 keep more
            resolution for images of 32 to 128 px.
        isotropic: One stage at stride 16 without stem norm (paper section 3.3).
        grn: Global response normalisation in every block (V2).
        layer_scale_init_value: Start of γ; 0 builds no γ (V2, isotropic S and B).
        head_init_scale: Factor on the initial head.
        num_classes: Outputs; 0 for pooled features.
        in_chans: Input channels.
        drop_path_rate: Stochastic depth of the last block, linear from 0 at the first.
        features_only: Return the stage outputs instead of logits.
        out_indices: Which stages then; all if None.

    Raises:
        ValueError: A value is out of its range.
    """

    depths: tuple[int, ...]
    dims: tuple[int, ...]
    stem_stride: int = 4
    isotropic: bool = False
    grn: bool = False
    layer_scale_init_value: float = 1e-6
    head_init_scale: float = 1.0
    num_classes: int = 1000
    in_chans: int = 3
    drop_path_rate: float = 0.0
    features_only: bool = False
    out_indices: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        # JSON has lists only; the value must stay hashable.
        object.__setattr__(self, "depths", tuple(self.depths))
        object.__setattr__(self, "dims", tuple(self.dims))
        if len(self.depths) != len(self.dims) or not self.depths:
            raise ValueError(
                f"depths {self.depths} and dims {self.dims} must have one entry for each stage"
            )
        if min(self.depths) < 1 or min(self.dims) < 1:
            raise ValueError(f"depths {self.depths} and dims {self.dims} must be at least 1")
        if self.isotropic and len(self.depths) != 1:
            raise ValueError(f"an isotropic network has one stage, not {len(self.depths)}")
        strides = (16,) if self.isotropic else (1, 2, 4)
        if self.stem_stride not in strides:
            raise ValueError(f"stem_stride {self.stem_stride} must be one of {strides}")
        if self.num_classes < 0:
            raise ValueError(f"num_classes {self.num_classes} must be 0 (features) or more")
        if self.in_chans < 1:
            raise ValueError(f"in_chans {self.in_chans} must be at least 1")
        if not 0.0 <= self.drop_path_rate < 1.0:
            raise ValueError(f"drop_path_rate {self.drop_path_rate} must be in [0, 1)")
        if self.layer_scale_init_value < 0:
            raise ValueError(
                f"layer_scale_init_value {self.layer_scale_init_value} must be 0 (none) or more"
            )
        bad = [i for i in self.out_indices or () if not 0 <= i < len(self.depths)]
        if bad:
            raise ValueError(f"out_indices {bad} must be in 0..{len(self.depths) - 1}")

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

    def forward(self, x: Tensor) -> Tensor:
        """Add DropPath(γ · mlp(norm(dwconv(x)))) to x."""
        branch: Tensor = self.norm(self.dwconv(x).permute(0, 2, 3, 1))  # N, H, W, C
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


class Stage(nn.Module):
    """An optional downsampling layer and a row of blocks."""

    def __init__(self, downsample: nn.Module | None, blocks: list[Block]) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C, H', W')."""
        if self.downsample is not None:
            x = self.downsample(x)
        for block in self.blocks:
            if self.grad_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x


class ConvNeXt(nn.Module):
    """ConvNeXt V1, V2 and isotropic.

    Input (N, in_chans, H, W), normalised, H and W at least the stride of the last stage (32 px
    for the paper's networks); remainders of the strides are dropped. Output logits
    (N, num_classes), pooled features (N, C) if ``num_classes`` is 0, or the list of stage
    outputs with ``features_only``.
    """

    def __init__(self, config: ConvNeXtConfig) -> None:
        super().__init__()
        self.config = config
        self.num_features = config.dims[-1]
        self.stem = Stem(config)
        rates = torch.linspace(0, config.drop_path_rate, sum(config.depths), device="cpu").tolist()
        stages, start = [], 0
        for i, (depth, dim) in enumerate(zip(config.depths, config.dims, strict=True)):
            downsample = Downsample(config.dims[i - 1], dim) if i else None
            blocks = [
                Block(dim, rate, config.layer_scale_init_value, config.grn)
                for rate in rates[start : start + depth]
            ]
            stages.append(Stage(downsample, blocks))
            start += depth
        self.stages = nn.ModuleList(stages)
        if not config.features_only:
            self.norm = nn.LayerNorm(self.num_features, eps=NORM_EPS)
            self.head: nn.Module = nn.Identity()
        self.apply(_init_weights)
        if not config.features_only:
            self.reset_classifier(config.num_classes, config.head_init_scale)

    @property
    def feature_info(self) -> FeatureInfo:
        """Channels and stride of the maps that ``features_only`` returns."""
        maps = list(zip(self.config.dims, self.config.reductions, strict=True))
        return FeatureInfo(tuple(maps[i] for i in self._out_indices))

    @property
    def _out_indices(self) -> tuple[int, ...]:
        chosen = self.config.out_indices
        return tuple(range(len(self.config.depths))) if chosen is None else chosen

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits, pooled features, or a list of maps: see the class."""
        if self.config.features_only:
            return self.forward_maps(x)
        return self.forward_head(self.forward_features(x))

    def forward_maps(self, x: Tensor) -> list[Tensor]:
        """The outputs of the chosen stages, each (N, C_i, H_i, W_i), not normalised."""
        maps = {}
        x = self.stem(self._checked(x))
        for i, stage in enumerate(self.stages):
            x = maps[i] = stage(x)
            if i == max(self._out_indices):
                break
        return [maps[i] for i in self._out_indices]

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map, (N, C, H', W'), before pooling and norm."""
        x = self.stem(self._checked(x))
        for stage in self.stages:
            x = stage(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool (N, C, H', W') over positions, normalise, classify.

        With ``pre_logits`` the features (N, C) before the last linear layer.
        """
        x = self.norm(x.mean([-2, -1]))
        return x if pre_logits else cast(Tensor, self.head(x))

    def reset_classifier(self, num_classes: int, head_init_scale: float = 1.0) -> None:
        """Replace the head by a new one; 0 classes leave the pooled features."""
        if num_classes == 0:
            self.head = nn.Identity()
            return
        like = self.norm.weight
        head = nn.Linear(self.num_features, num_classes, device=like.device, dtype=like.dtype)
        _init_weights(head)
        with torch.no_grad():
            head.weight.mul_(head_init_scale)
            head.bias.mul_(head_init_scale)
        self.head = head

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        for stage in self.stages:
            assert isinstance(stage, Stage)
            stage.grad_checkpointing = enable

    def layer_ids(self, rule: Literal["single", "group"]) -> tuple[dict[str, int], int]:
        """Depth of every parameter, for layer-wise learning-rate decay.

        Returns the id of each parameter by name and the number of layers L; the learning rate of
        a parameter is scaled by decay^(L + 1 - id).

        Args:
            rule: ``"single"``: each block its own layer (V2). ``"group"``: twelve layers, three
                blocks of the third stage sharing one (V1).

        Raises:
            ValueError: ``"group"`` on a network that has not four stages.

        Source: ConvNeXt appendix A.1 (layer-wise decay, group rule of the published code); V2
        appendix, fine-tuning.
        """
        if rule == "group" and len(self.config.depths) != 4:
            raise ValueError("layer decay rule 'group' needs four stages; use rule 'single'")
        num_layers = 12 if rule == "group" else sum(self.config.depths)
        ids = {name: self._layer_id(name, rule) for name, _ in self.named_parameters()}
        return {n: num_layers + 1 if i is None else i for n, i in ids.items()}, num_layers

    def _layer_id(self, name: str, rule: Literal["single", "group"]) -> int | None:
        """Layer of a parameter; None for the final norm and the head."""
        part, _, rest = name.partition(".")
        if part not in ("stem", "stages"):
            return None
        if part == "stem":
            return 0 if rule == "group" else 1
        stage, kind, block = rest.split(".")[:3]
        i = int(stage)
        if rule == "single":
            return sum(self.config.depths[:i]) + 1 + (int(block) if kind == "blocks" else 0)
        if i == 2 and kind == "blocks":
            return 3 + int(block) // 3
        return (1, 2, 3, 12)[i]

    def _checked(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return x
        smallest = self.config.reductions[-1]
        if x.ndim != 4 or x.shape[1] != self.config.in_chans or min(x.shape[-2:]) < smallest:
            raise ValueError(
                f"input of shape {tuple(x.shape)} does not fit: expected (N, {self.config.in_chans}"
                f", H, W) with H and W at least {smallest}; resize the image, or build the network "
                "with other in_chans or a smaller stem_stride"
            )
        return x


def _init_weights(module: nn.Module) -> None:
    """Normal(0, 0.02) for convolutions and linear layers, zero biases (paper appendix A.1)."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=INIT_STD, a=-2.0, b=2.0)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


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
