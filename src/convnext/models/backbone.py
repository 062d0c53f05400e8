"""What every network of the package shares: stem, stages, pooled head, features, freezing by depth.

    image --stem--> [stages] --mean--> norm --> head

A network builds `stem`, `stages`, `norm` and `head`; all that uses them is here, once.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from convnext.models.registry import FeatureInfo

INIT_STD = 0.02  # the paper's table 5 prints 0.2, the published code and models use 0.02


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """What every configuration has, whatever the network.

    Attributes:
        depths: Blocks of each stage.
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
    head_init_scale: float = 1.0
    num_classes: int = 1000
    in_chans: int = 3
    drop_path_rate: float = 0.0
    features_only: bool = False
    out_indices: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "depths", tuple(self.depths))  # JSON has lists only
        if not self.depths or min(self.depths) < 1:
            raise ValueError(f"depths {self.depths} must be at least 1 in each stage")
        if self.num_classes < 0:
            raise ValueError(f"num_classes {self.num_classes} must be 0 (features) or more")
        if self.in_chans < 1:
            raise ValueError(f"in_chans {self.in_chans} must be at least 1")
        if not 0.0 <= self.drop_path_rate < 1.0:
            raise ValueError(f"drop_path_rate {self.drop_path_rate} must be in [0, 1)")
        bad = [i for i in self.out_indices or () if not 0 <= i < len(self.depths)]
        if bad:
            raise ValueError(f"out_indices {bad} must be in 0..{len(self.depths) - 1}")

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each stage's output."""
        raise NotImplementedError

    @property
    def reductions(self) -> tuple[int, ...]:
        """Stride of each stage's output against the input."""
        raise NotImplementedError

    def drop_path_rates(self) -> list[list[float]]:
        """Stochastic depth of every block, stage by stage: linear from 0 to the rate."""
        rates = torch.linspace(0, self.drop_path_rate, sum(self.depths), device="cpu").tolist()
        starts = [sum(self.depths[:i]) for i in range(len(self.depths))]
        return [rates[s : s + depth] for s, depth in zip(starts, self.depths, strict=True)]


class Stage(nn.Module):
    """An optional downsampling layer and a row of blocks."""

    def __init__(self, downsample: nn.Module | None, blocks: list[nn.Module]) -> None:
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
                x = _repeated(block, x)
            else:
                x = block(x)
        return x


def _repeated(block: nn.Module, x: Tensor) -> Tensor:
    """A block whose activations are computed again in the backward pass."""
    norms = [m for m in block.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return cast(Tensor, checkpoint(block, x, use_reentrant=False))

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _frozen_statistics(norms)

    return cast(Tensor, checkpoint(block, x, use_reentrant=False, context_fn=contexts))


@contextmanager
def _frozen_statistics(norms: list[nn.modules.batchnorm._BatchNorm]) -> Iterator[None]:
    """Keep batch norms from counting the same batch again."""
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, number) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, number


class Backbone(nn.Module):
    """A network of a stem, stages and a head on the pooled last map.

    Input (N, in_chans, H, W), normalised, H and W at least the stride of the last stage (32 px
    for the papers' networks). Output logits (N, num_classes), pooled features (N, C) if
    ``num_classes`` is 0, or the list of stage outputs with ``features_only``.
    """

    config: BackboneConfig
    stem: nn.Module
    stages: nn.ModuleList
    norm: nn.Module
    head: nn.Module

    @property
    def num_features(self) -> int:
        """Channels of the last map."""
        return self.config.channels[-1]

    @property
    def feature_info(self) -> FeatureInfo:
        """Channels and stride of the maps that ``features_only`` returns."""
        maps = list(zip(self.config.channels, self.config.reductions, strict=True))
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
        like = next(self.stem.parameters())
        head = nn.Linear(self.num_features, num_classes, device=like.device, dtype=like.dtype)
        init_linear(head)
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
            return min(3 + int(block) // 3, 11)  # what is deeper stays below the last stage
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


def init_linear(module: nn.Conv2d | nn.Linear) -> None:
    """Normal(0, 0.02) weights, zero biases (ConvNeXt appendix A.1)."""
    nn.init.trunc_normal_(module.weight, std=INIT_STD, a=-2.0, b=2.0)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
