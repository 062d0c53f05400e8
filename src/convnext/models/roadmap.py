"""The road from ResNet to ConvNeXt: one network, and a table that says what each step changes.

Source: Liu et al., A ConvNet for the 2020s, CVPR 2022: section 2, figure 2, tables 10 and 11.
What paper and tables leave open is fixed so that every published GFLOPs figure comes out.

    resnet    1x1 c→w, 3x3 w→w, 1x1 w→4w           a norm and an activation after each
    inverted  1x1 c→4w, depthwise 4w, 1x1 4w→w
    moved up  depthwise c, 1x1 c→4w, 1x1 4w→w      norm after the first, activation after the second
"""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from convnext.layers.drop_path import DropPath
from convnext.layers.layer_norm import LayerNorm2d
from convnext.models.backbone import Backbone, BackboneConfig, Stage, init_linear
from convnext.models.registry import register

NORM_EPS = 1e-6  # of layer norms; batch norms keep 1e-5


@dataclass(frozen=True, kw_only=True)
class RoadmapConfig(BackboneConfig):
    """A network on the road; the other fields are those of every network.

    Attributes:
        width: Channels w of the first stage's blocks; they double from stage to stage.
        stem: ``"pool"``: 7x7 convolution of stride 2, norm, ReLU, max-pooling. ``"patchify"``: 4x4
            convolution of stride 4 and nothing after it.
        block: Order of the block's convolutions, see the head of this file.
        depthwise: Whether the block's spatial convolution has one filter a channel.
        kernel_size: Side of that convolution, odd.
        activation: Non-linearity of the blocks.
        activations: ``"all"``: after the first two convolutions and after the addition.
            ``"one"``: between the two 1x1 convolutions.
        norms: ``"all"``: after each convolution. ``"one"``: after the spatial one.
        norm: ``"batch"``, or ``"layer"``: over channels, and then convolutions have biases.
        downsampling: ``"in_block"``: the first block of a stage has stride 2, and a projection on
            its shortcut. ``"separate"``: a norm and a 2x2 convolution between the stages, a norm
            after the stem and one before the head.
        layer_scale_init_value: Start of γ on the residual branch; 0 builds no γ.

    Raises:
        ValueError: A value is out of its range.
    """

    width: int
    stem: Literal["pool", "patchify"] = "pool"
    block: Literal["resnet", "inverted", "moved_up"] = "resnet"
    depthwise: bool = False
    kernel_size: int = 3
    activation: Literal["relu", "gelu"] = "relu"
    activations: Literal["all", "one"] = "all"
    norms: Literal["all", "one"] = "all"
    norm: Literal["batch", "layer"] = "batch"
    downsampling: Literal["in_block", "separate"] = "in_block"
    layer_scale_init_value: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        known: dict[str, tuple[Any, ...]] = {
            "stem": ("pool", "patchify"),
            "block": tuple(BLOCKS),
            "activation": tuple(ACTIVATIONS),
            "activations": ("all", "one"),
            "norms": ("all", "one"),
            "norm": ("batch", "layer"),
            "downsampling": ("in_block", "separate"),
        }
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} {getattr(self, name)!r} must be one of {values}")
        if self.width < 1:
            raise ValueError(f"width {self.width} must be at least 1")
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size {self.kernel_size} must be odd and positive")
        if self.layer_scale_init_value < 0:
            raise ValueError(
                f"layer_scale_init_value {self.layer_scale_init_value} must be 0 (none) or more"
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """Width w of each stage's blocks."""
        return tuple(self.width * 2**i for i in range(len(self.depths)))

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each stage's output."""
        return tuple(_size(BLOCKS[self.block][-1][2], 0, w) for w in self.widths)

    @property
    def reductions(self) -> tuple[int, ...]:
        """Stride of each stage's output against the input."""
        return tuple(4 * 2**i for i in range(len(self.depths)))


# Convolutions of a block in their order: name, channels in and out (c: of the block's input).
BLOCKS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "resnet": (("pwconv1", "c", "w"), ("dwconv", "w", "w"), ("pwconv2", "w", "4w")),
    "inverted": (("pwconv1", "c", "4w"), ("dwconv", "4w", "4w"), ("pwconv2", "4w", "w")),
    "moved_up": (("dwconv", "c", "c"), ("pwconv1", "c", "4w"), ("pwconv2", "4w", "w")),
}
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


def _size(word: str, c: int, w: int) -> int:
    return {"c": c, "w": w, "4w": 4 * w}[word]


def _norm(config: RoadmapConfig, channels: int) -> nn.Module:
    if config.norm == "batch":
        return nn.BatchNorm2d(channels)
    return LayerNorm2d(channels, NORM_EPS)


class Block(nn.Module):
    """A residual block of three convolutions; `dwconv` is the spatial one on every step.

    Shapes: (N, c, H, W) to (N, w or 4w, H / stride, W / stride).
    """

    def __init__(
        self, config: RoadmapConfig, c: int, w: int, stride: int, drop_path: float
    ) -> None:
        super().__init__()
        layout = BLOCKS[config.block]
        self.order = tuple(name for name, _, _ in layout)
        activation = ACTIVATIONS[config.activation]
        for name, size_in, size_out in layout:
            in_chans, out_chans = _size(size_in, c, w), _size(size_out, c, w)
            spatial, first_two = name == "dwconv", name != self.order[-1]
            conv = nn.Conv2d(
                in_chans,
                out_chans,
                kernel_size=config.kernel_size if spatial else 1,
                stride=stride if spatial else 1,
                padding=config.kernel_size // 2 if spatial else 0,
                groups=in_chans if spatial and config.depthwise else 1,
                bias=config.norm != "batch",
            )
            has_norm = config.norms == "all" or spatial
            active = first_two if config.activations == "all" else name == "pwconv1"
            self.add_module(name, conv)
            self.add_module(f"norm_{name}", _norm(config, out_chans) if has_norm else nn.Identity())
            self.add_module(f"act_{name}", activation() if active else nn.Identity())
        out_chans = _size(layout[-1][2], c, w)
        scale = config.layer_scale_init_value
        self.gamma = nn.Parameter(torch.full((out_chans,), scale)) if scale > 0 else None
        self.drop_path = DropPath(drop_path)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or c != out_chans:
            projection = nn.Conv2d(c, out_chans, kernel_size=1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, _norm(config, out_chans))
        self.act = activation() if config.activations == "all" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """act(shortcut(x) + DropPath(γ · branch(x)))."""
        branch = x
        for name in self.order:
            branch = self.get_submodule(name)(branch)
            branch = self.get_submodule(f"norm_{name}")(branch)
            branch = self.get_submodule(f"act_{name}")(branch)
        if self.gamma is not None:
            branch = branch * self.gamma[:, None, None]
        out: Tensor = self.act(self.shortcut(x) + self.drop_path(branch))
        return out


class Stem(nn.Module):
    """From (N, in_chans, H, W) to (N, w, H / 4, W / 4)."""

    def __init__(self, config: RoadmapConfig) -> None:
        super().__init__()
        w = config.width
        if config.stem == "pool":
            self.conv = nn.Conv2d(config.in_chans, w, 7, stride=2, padding=3, bias=False)
            self.norm = _norm(config, w)
            self.pool: nn.Module = nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1))
        else:
            self.conv = nn.Conv2d(config.in_chans, w, 4, stride=4)
            separate = config.downsampling == "separate"
            self.norm = _norm(config, w) if separate else nn.Identity()
            self.pool = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Convolution, norm if there is one, pooling if there is one."""
        out: Tensor = self.pool(self.norm(self.conv(x)))
        return out


class Downsample(nn.Module):
    """Norm over channels, then a 2x2 convolution of stride 2."""

    def __init__(self, config: RoadmapConfig, in_dim: int, dim: int) -> None:
        super().__init__()
        self.norm = _norm(config, in_dim)
        self.conv = nn.Conv2d(in_dim, dim, kernel_size=2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C, H // 2, W // 2)."""
        out: Tensor = self.conv(self.norm(x))
        return out


class Roadmap(Backbone):
    """A network between ResNet and ConvNeXt.

    Convolutions start as PyTorch draws them, the head with a standard deviation of 0.02.
    """

    def __init__(self, config: RoadmapConfig) -> None:
        super().__init__()
        self.config: RoadmapConfig = config
        self.stem = Stem(config)
        separate = config.downsampling == "separate"
        stages, c = [], config.width
        for i, (w, rates) in enumerate(zip(config.widths, config.drop_path_rates(), strict=True)):
            downsample, stride = None, 1
            if i and separate:
                downsample, c = Downsample(config, c, w), w
            elif i:
                stride = 2
            blocks: list[nn.Module] = []
            for rate in rates:
                blocks.append(Block(config, c, w, stride, rate))
                c, stride = config.channels[i], 1
            stages.append(Stage(downsample, blocks))
        self.stages = nn.ModuleList(stages)
        if not config.features_only:
            self.norm = nn.LayerNorm(c, eps=NORM_EPS) if separate else nn.Identity()
            self.head = nn.Identity()
            self.reset_classifier(config.num_classes, config.head_init_scale)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                init_linear(module)


@dataclass(frozen=True)
class Step:
    """One step of the road.

    Attributes:
        name: Last part of the network's name.
        title: What the paper calls it.
        group: The part of section 2 that argues for it.
        changes: Fields of the configuration that change against the step before.
        adopted: False where the paper measures the change and goes on without it.
        regime: Fields that change in one regime only, by its letter.
    """

    name: str
    title: str
    group: str
    changes: dict[str, Any] = field(default_factory=dict)
    adopted: bool = True
    regime: dict[str, dict[str, Any]] = field(default_factory=dict)


# t: ResNet-50 to ConvNeXt-T (table 10). b: ResNet-200 to ConvNeXt-B (table 11).
START = {
    "t": RoadmapConfig(depths=(3, 4, 6, 3), width=64),
    "b": RoadmapConfig(depths=(3, 24, 36, 3), width=64),
}
DEPTHS_T, DEPTHS_B = {"depths": (3, 3, 9, 3)}, {"depths": (3, 3, 27, 3), "width": 84}
MACRO, RESNEXT, INVERTED = "macro design", "ResNeXt-ify", "inverted bottleneck"
KERNEL, MICRO = "large kernel", "micro design"
STEPS = (
    Step("resnet", "ResNet-50 / ResNet-200", "training recipe"),
    Step("stage_ratio", "stage ratio", MACRO, regime={"t": DEPTHS_T, "b": DEPTHS_B}),
    Step("patchify_stem", "“patchify” stem", MACRO, {"stem": "patchify"}),
    Step("depthwise", "depthwise convolution", RESNEXT, {"depthwise": True}),
    Step("width", "increased width", RESNEXT, regime={"t": {"width": 96}, "b": {"width": 128}}),
    Step("inverted_bottleneck", "inverting dimensions", INVERTED, {"block": "inverted"}),
    Step("move_up_depthwise", "move up depthwise convolution", KERNEL, {"block": "moved_up"}),
    Step("kernel5", "kernel size 5", KERNEL, {"kernel_size": 5}),
    Step("kernel7", "kernel size 7", KERNEL, {"kernel_size": 7}),
    Step("kernel9", "kernel size 9", KERNEL, {"kernel_size": 9}, adopted=False),
    Step("kernel11", "kernel size 11", KERNEL, {"kernel_size": 11}, adopted=False),
    Step("gelu", "ReLU to GELU", MICRO, {"activation": "gelu"}),
    Step("fewer_activations", "fewer activations", MICRO, {"activations": "one"}),
    Step("fewer_norms", "fewer norms", MICRO, {"norms": "one"}),
    Step("layer_norm", "BN to LN", MICRO, {"norm": "layer"}),
    Step(
        "separate_downsampling",
        "separate downsampling: ConvNeXt",
        MICRO,
        # With it comes the layer scale that the published network has; the tables add no row.
        {"downsampling": "separate", "layer_scale_init_value": 1e-6},
    ),
)


def changes(step: Step, regime: str) -> dict[str, Any]:
    """What a step changes in one regime, ``"t"`` or ``"b"``."""
    return {**step.changes, **step.regime.get(regime, {})}


def _road(regime: str) -> dict[str, RoadmapConfig]:
    """Every step's network: the changes of all adopted steps so far, and its own."""
    table, so_far = {}, START[regime]
    for step in STEPS:
        config = replace(so_far, **changes(step, regime))
        table[f"roadmap_{regime}_{step.name}"] = config
        if step.adopted:
            so_far = config
    return table


for _regime in START:
    register(Roadmap, _road(_regime))
