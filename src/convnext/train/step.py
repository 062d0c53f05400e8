"""One optimiser step: placing the task, forward, backward, clipping, update, average."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from convnext.layers.sync_batch_norm import synced
from convnext.train.batch import to_device
from convnext.train.config import OptimConfig, TrainConfig
from convnext.train.ema import Ema
from convnext.train.losses import LossLog, NonFiniteError
from convnext.train.memory import is_out_of_memory, micro_batch_that_fits
from convnext.train.optimizer import build_optimizer, set_step_values
from convnext.train.parallel import World, broadcast, shard, wrap
from convnext.train.param_groups import check_complete
from convnext.train.precision import autocast_context, grad_scaler, resolve
from convnext.train.protocols import Batch, Batches, Task
from convnext.train.randomness import preserved, seed_all
from convnext.train.schedule import lr_schedule, weight_decay_schedule
from convnext.train.sparsity import Sparsity
from convnext.train.state import TrainState

T = TypeVar("T")


class TrainStep:
    """Calling it makes one optimiser step and moves `state` on by one.

    Args:
        task: network and loss; moved to the device, and with FSDP sharded, in place.
        batches: says how many micro-batches and steps there are.
        optim: optimiser, schedule and sparsity.
        config: precision, parallelism, average.
        world: this process among all.

    Attributes:
        state: everything that a step changes.
        mask_update: "prune_rate" and "moved" if the last step moved the masks of a sparse run.

    Raises:
        ValueError: parameter groups that do not hold each parameter once, a device that cannot do
            what is asked, or sparsity without a weight to mask.
    """

    def __init__(
        self, task: Task, batches: Batches, optim: OptimConfig, config: TrainConfig, world: World
    ) -> None:
        assert isinstance(task, nn.Module)
        self._batches, self._config, self._world = batches, config, world
        self._clip_grad = optim.clip_grad
        self._lr: list[float] = lr_schedule(optim, batches.steps_per_epoch).tolist()
        self._decay: list[float] = weight_decay_schedule(optim, batches.steps_per_epoch).tolist()
        self.precision = resolve(config.precision, world.device)
        self._autocast = autocast_context(self.precision, world.device)
        ema = self._place(task)
        self.model = wrap(task, world, config.parallel)
        groups = task.param_groups(optim)  # only now: sharding has replaced the parameters
        check_complete(groups, task)
        optimizer = build_optimizer(groups, optim)
        sparsity = None
        if optim.sparsity.sparsity:
            steps = len(self._lr)
            sparsity = Sparsity(
                task, optimizer, ema, optim.sparsity, seed=config.seed, total_steps=steps
            )
        self.mask_update: dict[str, float] | None = None
        self.state = TrainState(
            task=task,
            optimizer=optimizer,
            losses=LossLog(world, batches.accum),
            ema=ema,
            scaler=grad_scaler(self.precision, world.device),
            sparsity=sparsity,
        )

    def _place(self, task: Task) -> Ema | None:
        """Move the task to its device and copy it for the average; the order matters."""
        assert isinstance(task, nn.Module)
        config, world = self._config, self._world
        sharded = world.size > 1 and config.parallel == "fsdp"
        if world.device.type == "cuda":
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS may vary
            torch.backends.cudnn.benchmark = not config.deterministic
            torch.use_deterministic_algorithms(config.deterministic, warn_only=True)
        if config.sync_batch_norm and world.size > 1:
            synced(task)
        task.to(world.device)
        broadcast(task, world)
        if config.channels_last and not sharded:  # FSDP wants weights in plain order
            task.to(memory_format=torch.channels_last)
        ema = None
        if config.ema_decay is not None:
            ema = Ema(task, config.ema_decay, config.ema_warmup)
            if sharded:
                shard(cast(Task, ema.module), world)
        if config.compile:
            for module in task.shard_modules() if sharded else task.children():
                if any(True for _ in module.parameters()):  # losses and mixup stay eager
                    module.compile()
        return ema

    @property
    def lr(self) -> float:
        """Learning rate of the step made last, before the groups' factors."""
        return self._lr[self.state.step - 1]

    def __call__(self, stream: Iterator[Batch], *, want_norm: bool) -> Tensor | None:
        """Make a step; nothing in here waits for the device but a move of the masks.

        Args:
            stream: micro-batches.
            want_norm: compute the gradient's norm even if nothing is clipped.

        Returns:
            The gradient's norm before clipping, if it was computed.

        Raises:
            ValueError: out of memory, naming a micro-batch that fits.
        """
        return self._explaining_memory(lambda: self._step(stream, want_norm))

    def start(self) -> None:
        """Draw the first masks of a sparse run, unless a checkpoint has brought some.

        For "snip" the gradient of the step to come is computed ahead; it leaves no trace. The
        task must be in training mode.

        Raises:
            ValueError: a sparsity that cannot be reached, or out of memory, as for a step.
            NonFiniteError: "snip" cannot rank weights by a gradient that is not finite.
        """
        if sparsity := self.state.sparsity:
            sparsity.start(lambda: self._explaining_memory(lambda: self._saliency(sparsity)))

    def _step(self, stream: Iterator[Batch], want_norm: bool) -> Tensor | None:
        state, step = self.state, self.state.step
        set_step_values(state.optimizer, self._lr[step], self._decay[step])
        self._accumulate(stream, state.losses.add)
        if state.scaler:
            state.scaler.unscale_(state.optimizer)
        if state.sparsity:
            state.sparsity.mask_gradients(step)
        norm = self._clip(want_norm)
        if state.scaler:
            state.scaler.step(state.optimizer)
            state.scaler.update()
        else:
            state.optimizer.step()
        state.optimizer.zero_grad()
        if state.sparsity:
            state.sparsity.start_averages(step)
        if state.ema:
            state.ema.update(state.task, step)
        state.step += 1
        if state.sparsity:
            self.mask_update = state.sparsity.update(state.step)
        return norm

    def _accumulate(
        self, stream: Iterator[Batch], note: Callable[[dict[str, Tensor]], object]
    ) -> None:
        """Forward and backward of all micro-batches of the present step."""
        accum = self._batches.accum
        for micro in range(accum):
            batch = next(stream)
            seed_all(self._config.seed, self.state.step, micro, self._world.rank)
            with self._accumulating(last=micro == accum - 1):
                note(self._forward_backward(self.model, batch))

    def _saliency(self, sparsity: Sparsity) -> dict[str, Tensor]:
        """|w * dL/dw| by the gradient of the present step, after which all is as before."""
        state = self.state
        buffers = {name: buffer.clone() for name, buffer in state.task.named_buffers()}
        scaling = state.scaler.state_dict() if state.scaler else {}
        scale = scaling.get("scale", 1.0)
        with preserved():
            while True:
                self._accumulate(self._batches.iterate(state.step), lambda losses: None)
                scores = sparsity.saliency()
                state.optimizer.zero_grad()
                finite = all(bool(score.isfinite().all()) for score in scores.values())
                if finite or not state.scaler or scale < 1:
                    break
                scale /= 16  # an overflow; the order of the scores does not depend on the scale
                state.scaler.update(scale)
        for name, buffer in state.task.named_buffers():
            buffer.copy_(buffers[name])
        if state.scaler:
            state.scaler.load_state_dict(scaling)
        if not finite:
            raise NonFiniteError(
                f"the gradient of step {state.step + 1}, by which sparsity.init='snip' ranks the "
                "weights, is not finite"
            )
        return scores

    def _explaining_memory(self, work: Callable[[], T]) -> T:
        """Do something that may run out of memory; then say which micro-batch would fit."""
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # not inside `except`, where the traceback still holds the activations
        raise ValueError(self._explain_memory())

    def _forward_backward(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        batch = to_device(batch, self._world.device, channels_last=self._config.channels_last)
        with self._autocast():
            losses: dict[str, Tensor] = model(batch)
        loss = losses["loss"] / self._batches.accum
        torch.autograd.backward(self.state.scaler.scale(loss) if self.state.scaler else loss)
        return losses

    def _accumulating(self, *, last: bool) -> AbstractContextManager[None]:
        """DDP talks only in the last micro-batch; FSDP always, which keeps gradients sharded."""
        if isinstance(self.model, DistributedDataParallel) and not last:
            return self.model.no_sync()
        return nullcontext()

    def _clip(self, want_norm: bool) -> Tensor | None:
        """Clip the gradients, unscaled by now; the norm is that before clipping."""
        if self._clip_grad is None and not want_norm:
            return None
        parameters = [p for p in self.state.task.parameters() if p.grad is not None]
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if self._clip_grad is not None:
            clip_grads_with_norm_(parameters, self._clip_grad, norm)
        return norm

    def _explain_memory(self) -> str:
        """Which micro-batch would fit; tried out unless every process must take part."""
        step, size, world = self.state.step, self._batches.micro_batch, self._world
        problem = f"out of memory on {world.device} at step {step + 1} with {size} images at a time"
        together = self._config.parallel == "fsdp" or self._config.sync_batch_norm
        if world.size > 1 and together:  # nothing can be tried out by one process alone
            fits, verdict = size // 2 or None, "half of them may fit"
        else:
            fits = micro_batch_that_fits(
                lambda part: self._forward_backward(self.state.task, part),
                next(self._batches.iterate(step)),
                self.state.optimizer,
            )
            verdict = f"{fits} fit"
        if fits is None:
            advice = getattr(self.state.task, "training_memory", "a smaller network or image")
            fewer = "fewer do not fit either" if size > 1 else "one image does not fit either"
            return f"{problem}, and {fewer}: take {advice}"
        return (
            f"{problem}; {verdict}: set micro_batch={fits} (--train.micro-batch {fits}), "
            f"the effective batch of {self._batches.batch_size} is kept by accumulation"
        )
