"""A network in plain PyTorch block by block, each in floating point or in 8-bit integers."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from convnext.deploy.quantised import BlockRanges, quantised_block
from convnext.ops.cpu.plan import Plan
from convnext.ops.cpu.reference import block, downsample, stem

__all__ = ["Blockwise"]


@dataclass
class Blockwise:
    """The network cut into its blocks.

    Attributes:
        plan: Its numbers.
        eps: Of every LayerNorm.
        stem: Weights of the stem.
        downsamples: Of what precedes each stage.
        blocks: Of each block.
        ranges: For each block how its operands are quantised.
    """

    plan: Plan
    eps: float
    stem: list[Tensor]
    downsamples: list[list[Tensor]]
    blocks: list[list[Tensor]]
    ranges: list[BlockRanges] = field(default_factory=list)

    @classmethod
    def of(cls, plan: Plan, weights: Iterable[Tensor], eps: float) -> "Blockwise":
        """Of the weights of the plan's slots, none of whose blocks is quantised."""
        left = iter(weights)

        def take(count: int) -> list[Tensor]:
            return [next(left).float() for _ in range(count)]

        parts = cls(plan, eps, take(4 if plan.stem_norm else 2), [[]], [])
        for i, depth in enumerate(plan.depths):
            if i:
                parts.downsamples.append(take(2))
            parts.blocks += [take(7 if plan.grn else 6) for _ in range(depth)]
        return parts

    @property
    def steps(self) -> list[tuple[int, bool]]:
        """For each block its stage, and whether a downsample precedes it."""
        return [(s, s > 0 and b == 0) for s, d in enumerate(self.plan.depths) for b in range(d)]

    def enter(self, images: Tensor) -> Tensor:
        """The first map, (N, H, W, C)."""
        return stem(self.plan, images, iter(self.stem), self.eps)

    def step(
        self,
        i: int,
        x: Tensor,
        quantised: bool,
        see: Callable[[Tensor, Tensor], None] | None = None,
    ) -> Tensor:
        """Block i, and the downsample before it if there is one."""
        stage, first = self.steps[i]
        if first:
            x = downsample(x, iter(self.downsamples[stage]), self.eps)
        weights = self.blocks[i]
        if quantised:
            ready = quantised_block(weights, self.ranges[i])
            return block(x, ready, self.eps, grn=self.plan.grn, quantised=True)
        return block(x, iter(weights), self.eps, grn=self.plan.grn, see=see)

    def pooled(self, x: Tensor, first: int, flags: Sequence[bool]) -> Tensor:
        """The mean of the last map, from the input of block `first` on."""
        for i in range(first, len(self.blocks)):
            x = self.step(i, x, flags[i])
        return x.mean((1, 2))
