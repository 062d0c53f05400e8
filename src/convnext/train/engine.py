"""The training loop, the same for every task."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from convnext.train import checkpoint
from convnext.train.config import OptimConfig, TrainConfig
from convnext.train.hooks import Hook, Record, RunInfo
from convnext.train.losses import NonFiniteError, check_finite_weights
from convnext.train.memory import is_out_of_memory
from convnext.train.parallel import Vote, World
from convnext.train.protocols import Batches, Evaluate, Task
from convnext.train.randomness import seed_all
from convnext.train.recipe_check import plain, refuse_other_recipe
from convnext.train.signals import InterruptedEvaluation, StopSignals
from convnext.train.state import Best, weights
from convnext.train.step import TrainStep


@dataclass(frozen=True)
class FitResult:
    """How a run ended.

    Attributes:
        step: steps done.
        best: the best evaluation, with score and which weights; None if none was made.
        best_path: file with the best weights; None if no evaluation was made.
        last_path: the newest resume checkpoint.
        seconds: time in the loop, that of earlier processes up to their checkpoints included.
    """

    step: int
    best: Best | None
    best_path: Path | None
    last_path: Path | None
    seconds: float


class Engine:
    """Trains a task to the end of its schedule, from wherever an earlier process stopped.

    A step is one optimiser step: `accum` micro-batches on each of `world.size` processes, whose
    gradients are averaged. Randomness is a function of (seed, step, micro-batch, rank), so a run
    that is killed and started again ends in bit-identical weights.

    Args:
        task: network and loss.
        batches: training data.
        optim: optimiser, schedule and length.
        config: use of the machine.
        run_dir: folder for `checkpoints/`; a run found there is resumed.
        world: this process among all, from `parallel.setup`.
        evaluate: scores weights: called on every process with the task or its averaged copy, in
            evaluation mode, without gradients and autocast; returns numbers, among them "score".
        recipe: the whole recipe as plain values, stored in every checkpoint; a resumed run must
            have the same one, but for fields that change neither data order nor mathematics.
        hooks: watchers, called on rank 0.

    Raises:
        ValueError: parameter groups that do not hold each parameter once, or a device that
            cannot do what is asked.
    """

    def __init__(
        self,
        task: Task,
        batches: Batches,
        optim: OptimConfig,
        config: TrainConfig,
        *,
        run_dir: Path,
        world: World | None = None,
        evaluate: Evaluate | None = None,
        recipe: dict[str, Any] | None = None,
        hooks: Sequence[Hook] = (),
    ) -> None:
        self._batches, self._config, self._evaluate_weights = batches, config, evaluate
        self._world = world or World()
        self._hooks = list(hooks) if self._world.is_main else []
        self._run_dir, self._folder = Path(run_dir), Path(run_dir) / "checkpoints"
        self._recipe = plain(
            {"optim": asdict(optim), "train": asdict(config), **(recipe or {})}
            | {"data_size": {"images": batches.num_samples, "batch_size": batches.batch_size}}
        )
        self._total_steps = optim.total_steps(batches.steps_per_epoch)
        self._train_step = TrainStep(task, batches, optim, config, self._world)
        self.state = self._train_step.state

    def fit(self) -> FitResult:
        """Train until the last step and say how it went; at once if that is done already.

        Raises:
            NonFiniteError: the loss or the weights are no longer finite.
            ValueError: out of memory (naming a micro-batch that fits), a checkpoint that cannot
                be resumed, or one of another recipe.
            OSError: a checkpoint could not be written; earlier ones are untouched.
            SystemExit: 143 after SIGTERM, 130 after SIGINT, with the run saved.
        """
        self._resume()
        if self.state.step < self._total_steps or self._evaluation_due():
            with ExitStack() as stack:
                signals = stack.enter_context(StopSignals())
                for hook in self._hooks:
                    stack.callback(hook.on_end)
                    hook.on_start(self._info())
                self._run(signals, stack.enter_context(closing(Vote(self._world))))
        best = self.state.best
        return FitResult(
            step=self.state.step,
            best=best,
            best_path=self._folder / checkpoint.BEST if best else None,
            last_path=checkpoint.latest(self._folder),
            seconds=self.state.seconds,
        )

    def _run(self, signals: StopSignals, vote: Vote) -> None:
        """The loop."""
        state, stop = self.state, 0
        self._since = self._mark = time.perf_counter()
        self._marked_step = state.step
        if self._evaluation_due():  # an earlier process was stopped in the middle of it
            stop = self._evaluate(signals)
            self._save()
        state.task.train()
        self._start_masks()
        stream = self._batches.iterate(state.step)
        while state.step < self._total_steps and not stop:
            grad_norm = self._train_step(stream, want_norm=self._log_due(state.step + 1))
            for hook in self._hooks:
                hook.on_step(state.step)
            if self._train_step.mask_update:
                self._emit(self._record("masks") | self._train_step.mask_update)
            if self._log_due(state.step):
                self._log(grad_norm)
            stop = vote.any(signals.received)
            if self._evaluation_due() and not stop:
                stop = self._evaluate(signals)
            if self._checkpoint_due() or stop:
                self._save()
        if stop and (state.step < self._total_steps or self._evaluation_due()):
            self._say(f"stopped and saved at step {state.step}; the same command resumes")
            raise SystemExit(128 + stop)

    def _resume(self) -> None:
        """Continue from the newest whole checkpoint, if there is one."""
        found: tuple[Path, dict[str, Any]] | None = None

        def find() -> Path | None:
            nonlocal found
            checkpoint.remove_temporary(self._folder)
            found = checkpoint.load_latest(self._folder, self._say)
            return found[0] if found else None

        path = self._world.from_main(find)
        if path is None:
            return
        saved = found[1] if found else checkpoint.load(path)
        for change in refuse_other_recipe(saved["recipe"], self._recipe):
            self._say(f"since the run began: {change}")
        if saved["precision"] != self._train_step.precision:
            self._say(f"the run began in {saved['precision']}, {self._train_step.precision} now")
        self.state.load_state_dict(saved)
        self._say(f"resuming from {path} (step {self.state.step} of {self._total_steps})")

    def _start_masks(self) -> None:
        try:
            self._train_step.start()
        except NonFiniteError as error:
            raise self._with_remedy(error) from None
        if self.state.sparsity:
            self._say(self.state.sparsity.summary())

    def _log(self, grad_norm: Tensor | None) -> None:
        """Read losses and norm from the device and hand a record to the hooks."""
        step = self.state.step
        losses = self._finite_losses()
        self.state.losses.clear()
        images = (step - self._marked_step) * self._batches.batch_size
        now = time.perf_counter()
        record = self._record("train") | losses
        record["lr"] = self._train_step.lr
        record["images_per_second"] = images / (now - self._mark)
        if grad_norm is not None:
            record["grad_norm"] = grad_norm.item()
        if self._world.device.type == "cuda":
            record["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        if self.state.sparsity:
            record["sparsity"] = self.state.sparsity.share
            record["nonzero_weights"] = self.state.sparsity.nonzero_weights(self._world)
        self._mark, self._marked_step = now, step
        self._emit(record)

    def _evaluate(self, signals: StopSignals) -> int:
        """Score averaged and raw weights and keep the best; the signal's number if one came."""
        state = self.state
        self._check_finite()
        modules = {"ema": state.ema.module} if state.ema else {}
        modules["model"] = state.task
        try:
            # other processes cannot be left alone in the middle of their common evaluation
            with self._off_the_clock(), signals.interrupting(self._world.size == 1):
                scores = {name: self._score(module) for name, module in modules.items()}
        except InterruptedEvaluation:
            return signals.received
        finally:
            state.task.train()
        state.evaluated = state.step
        for name, metrics in scores.items():
            self._emit(self._record("eval") | metrics | {"weights": name})
            if state.best is None or metrics["score"] > state.best.score:
                state.best = Best(state.step, metrics["score"], name, metrics)
                self._save_best(modules[name])
        return 0

    @torch.no_grad()
    def _score(self, module: nn.Module) -> dict[str, float]:
        assert self._evaluate_weights is not None
        seed_all(self._config.seed, self.state.step, self._world.rank)
        try:
            metrics = self._evaluate_weights(module.eval())
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            advice = getattr(module, "evaluation_memory", "a smaller batch")
            raise ValueError(
                f"out of memory in the evaluation at step {self.state.step}: evaluate with {advice}"
            ) from None
        assert "score" in metrics, "evaluate() must give a score"
        return self._world.from_main(lambda: metrics)

    def _save(self) -> None:
        """Write a resume checkpoint, never one with spoilt weights."""
        self._check_finite()
        with self._off_the_clock():
            now = time.perf_counter()
            self.state.seconds, self._since = self.state.seconds + now - self._since, now
            state = self.state.state_dict() | {
                "recipe": self._recipe,
                "precision": self._train_step.precision,
            }
            keep = self._config.keep_checkpoints
            self._world.from_main(
                lambda: checkpoint.save(self._folder, self.state.step, state, keep=keep)
            )

    def _save_best(self, module: nn.Module) -> None:
        with self._off_the_clock():
            assert self.state.best is not None
            state = {"task": weights(module), "best": asdict(self.state.best)}
            state["recipe"] = self._recipe
            if self.state.sparsity:
                state["masks"] = self.state.sparsity.state_dict()
            self._world.from_main(lambda: checkpoint.save_best(self._folder, state))

    def _check_finite(self) -> None:
        self._finite_losses()
        try:
            check_finite_weights(self.state.task, self._world, self.state.step)
        except NonFiniteError as error:
            raise self._with_remedy(error) from None

    def _finite_losses(self) -> dict[str, float]:
        try:
            return self.state.losses.read(self.state.step)
        except NonFiniteError as error:
            raise self._with_remedy(error) from None

    def _with_remedy(self, error: NonFiniteError) -> NonFiniteError:
        good = checkpoint.latest(self._folder)
        return NonFiniteError(
            f"{error}; the last good checkpoint is {good or 'none yet'}; "
            "lower the learning rate, clip the gradient (clip_grad) or leave fp16"
        )

    def _log_due(self, step: int) -> bool:
        return step % self._config.log_every_steps == 0 or step in (1, self._total_steps)

    def _checkpoint_due(self) -> bool:
        every = self._config.checkpoint_every_steps or self._batches.steps_per_epoch
        return self.state.step % every == 0 or self.state.step == self._total_steps

    def _evaluation_due(self) -> bool:
        step, every = self.state.step, self._config.eval_every_epochs
        if self._evaluate_weights is None or self.state.evaluated == step:
            return False
        in_turn = every > 0 and step % (every * self._batches.steps_per_epoch) == 0
        return in_turn or step == self._total_steps

    def _record(self, kind: str) -> Record:
        epoch = self.state.step / self._batches.steps_per_epoch
        return {"kind": kind, "step": self.state.step, "epoch": round(epoch, 4)}

    def _emit(self, record: Record) -> None:
        for hook in self._hooks:
            hook.on_record(record)

    def _say(self, text: str) -> None:
        for hook in self._hooks:
            hook.on_message(text)

    @contextmanager
    def _off_the_clock(self) -> Iterator[None]:
        """Keep evaluations and checkpoints out of the images per second."""
        start = time.perf_counter()
        yield
        self._mark += time.perf_counter() - start

    def _info(self) -> RunInfo:
        return RunInfo(
            run_dir=self._run_dir,
            start_step=self.state.step,
            total_steps=self._total_steps,
            steps_per_epoch=self._batches.steps_per_epoch,
            batch_size=self._batches.batch_size,
            micro_batch=self._batches.micro_batch,
            accum=self._batches.accum,
            world_size=self._world.size,
            device=str(self._world.device),
            precision=self._train_step.precision,
        )
