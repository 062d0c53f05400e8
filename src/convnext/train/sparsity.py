"""Sparse training from scratch: masks over the weights, moved by pruning and growing."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from convnext.train.config import SparsityConfig
from convnext.train.ema import Ema
from convnext.train.parallel import World, copy_into, full_tensor, local, whole
from convnext.train.sparse_init import draw_mask, generator, kept_counts, maskable
from convnext.train.sparse_update import grow_at_random, grow_by_gradient, prune, prune_rate


class Sparsity:
    """The masks of a sparse run, and all that they do to its tensors.

    A masked weight w of mask m is zero where m is, and so are its optimiser moments and its
    average. As its gradient is multiplied by m after every backward pass, AdamW and SGD keep it
    so by themselves. After every `update_every` steps, but not after the last, each tensor's
    ceil(p * nnz) smallest active |w| are pruned and as many inactive ones grown, see
    `sparse_update`; how many weights a tensor has never changes.

    Every process decides on the same whole tensors with the same random numbers, a function of
    (seed, step, tensor), so the masks of all processes agree without communication; of a sharded
    parameter each keeps its part of the mask.

    Args:
        task: its trainable weights are masked, see `maskable`.
        optimizer: over the task's parameters.
        ema: the averaged copy, if any.
        config: how sparse, and how the masks begin and move.
        seed: of the masks' random numbers.
        total_steps: steps of the run.

    Raises:
        ValueError: nothing to mask, or a pattern in `config.only` that matches nothing.

    Source: Liu et al., SLaK, ICLR 2023, "use sparse groups, expand more width".
    """

    def __init__(
        self,
        task: nn.Module,
        optimizer: torch.optim.Optimizer,
        ema: Ema | None,
        config: SparsityConfig,
        *,
        seed: int,
        total_steps: int,
    ) -> None:
        self._optimizer, self._config = optimizer, config
        self._seed, self._total_steps = seed, total_steps
        self._weights = maskable(task, config.only)
        self._averages = dict(ema.module.named_parameters()) if ema else {}
        self._all_parameters = sum(p.numel() for p in task.parameters())
        self._numel = sum(p.numel() for p in self._weights.values())
        self._zeros = 0
        self._dense_gradients: dict[str, Tensor] = {}
        self.masks: dict[str, Tensor] = {}  # of the tensors that are not dense; sharded like them

    @property
    def share(self) -> float:
        """Share of the maskable weights that is masked, the same during a whole run."""
        return self._zeros / self._numel

    def saliency(self) -> dict[str, Tensor]:
        """|w * dL/dw| of every maskable weight, whole and on the CPU, from the present gradients.

        Source: Lee et al., SNIP, ICLR 2019, section 4.
        """
        scores = {}
        for name, weight in self._weights.items():
            grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
            scores[name] = whole(weight.detach() * grad).abs().cpu()
        return scores

    def start(self, saliency: Callable[[], Mapping[str, Tensor]]) -> None:
        """Draw the first masks, unless there are some: random, with densities of `kept_counts`.

        Args:
            saliency: gives the scores that "snip" needs.

        Raises:
            ValueError: a sparsity that cannot be reached.
        """
        if self.masks:
            return
        scores = saliency() if self._config.init == "snip" else {}
        shapes = {name: weight.shape for name, weight in self._weights.items()}
        counts = kept_counts(self._config, shapes, scores)
        masks = {
            name: draw_mask(shape, counts[name], generator(self._seed, 0, index))
            for index, (name, shape) in enumerate(shapes.items())
        }
        self._take(masks)
        for name in self.masks:
            self._clear_inactive(name)

    def mask_gradients(self, step: int) -> None:
        """Silence masked weights in the gradients of step `step` (counted from 0).

        Before an update by gradient the whole gradients are kept for it.
        """
        if self._config.growth == "gradient" and self.due(step + 1):
            self._dense_gradients = {
                name: grad.clone()
                for name in self.masks
                if (grad := self._weights[name].grad) is not None
            }
        pairs = [
            (local(grad), local(mask))
            for name, mask in self.masks.items()
            if (grad := self._weights[name].grad) is not None
        ]
        if pairs:
            torch._foreach_mul_([grad for grad, _ in pairs], [mask for _, mask in pairs])

    @torch.no_grad()
    def start_averages(self, step: int) -> None:
        """Let averages of weights grown before step `step` (counted from 0) begin at the weight.

        Such an average is exactly 0 where the mask is on. To be called between the optimiser's
        step and the average's; without an update before this step it does nothing.
        """
        if not self._averages or not self.due(step):
            return
        for name, mask in self.masks.items():
            average, weight = local(self._averages[name]), local(self._weights[name])
            average.copy_(torch.where((average == 0) & local(mask), weight, average))

    def due(self, step: int) -> bool:
        """Whether the masks move after step `step` (counted from 1)."""
        every = self._config.update_every
        return every > 0 and 0 < step < self._total_steps and step % every == 0

    @torch.no_grad()
    def update(self, step: int) -> dict[str, float] | None:
        """Move the masks if that is due after step `step` (counted from 1).

        Returns:
            "prune_rate" and "moved", the number of weights that became active; None if not due.
        """
        if not self.due(step):
            return None
        rate, moved = prune_rate(self._config.prune_rate, step, self._total_steps), 0
        for index, name in enumerate(self._weights):
            if name in self.masks:
                before = whole(self.masks[name])
                after = self._moved(name, before, rate, generator(self._seed, step, index))
                moved += int((after & ~before).sum())
                copy_into(self.masks[name], after)
                self._clear_inactive(name)
        self._dense_gradients = {}
        return {"prune_rate": rate, "moved": moved}

    def _moved(self, name: str, mask: Tensor, rate: float, random: torch.Generator) -> Tensor:
        weight = whole(self._weights[name])
        kept, count = prune(weight, mask, rate)
        if self._config.growth == "random":
            return grow_at_random(kept, count, random)
        gradient = self._dense_gradients.get(name)
        gradient = torch.zeros_like(weight) if gradient is None else whole(gradient)
        return grow_by_gradient(kept, count, gradient)

    def nonzero_weights(self, world: World) -> int:
        """How many maskable weights are not zero; all processes must ask."""
        counts = [local(weight).count_nonzero() for weight in self._weights.values()]
        total = world.mean(torch.stack(counts).sum().double()).item()
        sharded = any(isinstance(weight, DTensor) for weight in self._weights.values())
        return round(total * world.size) if sharded else round(total)

    def summary(self) -> str:
        """What a user should know before the first step."""
        config, dense = self._config, len(self._weights) - len(self.masks)
        every, most = config.update_every, f"{100 * config.prune_rate:g} % of them"
        static = not self.due(every)
        return (
            f"sparse training: {100 * self.share:.1f} % of {_short(self._numel)} weights in "
            f"{len(self._weights)} tensors are zero ({config.init}, {dense} stay dense); "
            f"{_short(self._all_parameters - self._zeros)} non-zero parameters of "
            f"{_short(self._all_parameters)}; "
            + ("the masks never change" if static else f"every {every} steps up to {most} move")
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Masks (bool) of all maskable weights by name, whole and on the CPU; all on if dense."""
        return {
            name: full_tensor(self.masks[name])
            if name in self.masks
            else torch.ones(weight.shape, dtype=torch.bool)
            for name, weight in self._weights.items()
        }

    def load_state_dict(self, masks: Mapping[str, Tensor] | None) -> None:
        """Continue with the masks of another process's `state_dict`.

        Raises:
            ValueError: naming the tensor that has no mask, a foreign one or one of another shape.
        """
        masks = masks or {}
        for name in sorted(masks.keys() ^ self._weights.keys()):
            here, there = ("it", "this run") if name in self._weights else ("this run", "it")
            raise ValueError(
                f"the checkpoint does not fit the sparse run: {here} has no mask for {name}, "
                f"which {there} masks"
            )
        for name, weight in self._weights.items():
            if masks[name].shape != weight.shape or masks[name].dtype != torch.bool:
                raise ValueError(
                    f"the checkpoint's mask of {name} is {masks[name].dtype} of shape "
                    f"{tuple(masks[name].shape)}, the weight needs bool of {tuple(weight.shape)}"
                )
        self._take(masks)

    def _take(self, masks: Mapping[str, Tensor]) -> None:
        """Keep masks, given whole; those of dense tensors only count."""
        self._zeros = sum(int((~mask).sum()) for mask in masks.values())
        for name, mask in masks.items():
            if not mask.all():
                self.masks[name] = torch.zeros_like(
                    self._weights[name], dtype=torch.bool, requires_grad=False
                )
                copy_into(self.masks[name], mask)

    @torch.no_grad()
    def _clear_inactive(self, name: str) -> None:
        """Zero the inactive entries of a weight, of its moments and of its average."""
        weight, mask = self._weights[name], local(self.masks[name])
        moments = [
            value
            for value in self._optimizer.state.get(weight, {}).values()
            if isinstance(value, Tensor) and value.shape == weight.shape
        ]
        averages = [self._averages[name]] if self._averages else []
        for tensor in (weight, *moments, *averages):
            local(tensor).mul_(mask)


def _short(count: int) -> str:
    """28.6M, 14.2k, 950."""
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return str(count)
