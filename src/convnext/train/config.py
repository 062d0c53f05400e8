"""What a recipe says about optimisation, and what a user says about the machine."""

from dataclasses import dataclass, replace
from typing import Literal, Self


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class SparsityConfig:
    """Sparse training from scratch: which weights are left out, and how often that changes.

    Attributes:
        sparsity: share of the weights of two and more dimensions that are zero; 0 trains densely.
            Tensors that would be 99 % full stay dense, and each keeps at least one weight.
        init: how the share is spread over tensors: by the saliency |w · dL/dw| of a first batch
            ("snip"), by shape ("erk"), or evenly ("uniform").
        growth: which weights grow where the smallest are pruned: "random" or by "gradient".
        update_every: steps from one prune-and-grow to the next; 0 keeps the first masks.
        prune_rate: share of the active weights that an update prunes, at the start of the run; a
            cosine brings it to 0.005 at the end.
        only: shell-style patterns of the names of parameters that may be sparse; empty for all.

    Raises:
        ValueError: a value outside its range.

    Source: Liu et al., SLaK, ICLR 2023, "use sparse groups, expand more width"; Evci et al., RigL,
        ICML 2020.
    """

    sparsity: float = 0.0
    init: Literal["snip", "erk", "uniform"] = "snip"
    growth: Literal["random", "gradient"] = "random"
    update_every: int = 2000
    prune_rate: float = 0.5
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require(
            0 <= self.sparsity < 1,
            f"sparsity={self.sparsity}: must be from 0 (dense) to below 1",
        )
        _require(
            self.init in ("snip", "erk", "uniform"), f"init={self.init!r}: snip, erk or uniform"
        )
        _require(
            self.growth in ("random", "gradient"), f"growth={self.growth!r}: random or gradient"
        )
        _require(
            self.update_every >= 0,
            f"update_every={self.update_every}: must be at least 1, or 0 to keep the first masks",
        )
        _require(0 <= self.prune_rate <= 1, f"prune_rate={self.prune_rate}: must be from 0 to 1")
        _require(
            not isinstance(self.only, str),
            f"only={self.only!r}: must be a tuple of patterns, ({self.only!r},)",
        )


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimiser, schedule and length of a training run.

    Defaults are the ImageNet-1K recipe from scratch.

    Attributes:
        optimizer: "adamw" or "sgd".
        lr: peak learning rate for the effective batch, not scaled by anything.
        betas: AdamW's decay rates of the two moments.
        eps: AdamW's denominator offset.
        momentum: momentum of SGD.
        weight_decay: decay of the weights that decay, at the first step.
        weight_decay_end: decay at the last step, by a cosine; None keeps it constant.
        batch_size: effective batch: images per optimiser step, over all devices.
        epochs: passes over the data.
        steps: length of the run in optimiser steps, in place of `epochs`.
        warmup_epochs: epochs of linear warm-up, 0 <= warmup_epochs <= epochs.
        warmup_steps: length of the warm-up in optimiser steps, in place of `warmup_epochs`.
        min_lr: learning rate that the schedule approaches.
        schedule: "per_step" (V1), "per_epoch_fraction" (V2), "steps" (detection) or "poly"
            (segmentation); see `schedule.py`.
        drops: with "steps", where the learning rate falls to a tenth, as shares of the run.
        layer_decay: factor of the learning rate from one layer to the one below, in (0, 1].
        layer_decay_rule: what a layer is: every block ("single") or 12 groups ("group").
        clip_grad: limit of the gradient's 2-norm; None clips nothing.
        sparsity: sparse training; by default none.

    Raises:
        ValueError: a value outside its range.

    Source: ConvNeXt, Table 5 and Table 6; ConvNeXt V2, Tables 9 to 13.
    """

    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 4e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    momentum: float = 0.9
    weight_decay: float = 0.05
    weight_decay_end: float | None = None
    batch_size: int = 4096
    epochs: int = 300
    steps: int | None = None
    warmup_epochs: float = 20.0
    warmup_steps: int | None = None
    min_lr: float = 1e-6
    schedule: Literal["per_step", "per_epoch_fraction", "steps", "poly"] = "per_step"
    drops: tuple[float, ...] = (0.75, 11 / 12)
    layer_decay: float = 1.0
    layer_decay_rule: Literal["single", "group"] = "single"
    clip_grad: float | None = None
    sparsity: SparsityConfig = SparsityConfig()

    def __post_init__(self) -> None:
        _require(self.optimizer in ("adamw", "sgd"), f"optimizer={self.optimizer!r}: adamw or sgd")
        _require(
            self.schedule in ("per_step", "per_epoch_fraction", "steps", "poly"),
            f"schedule={self.schedule!r}: per_step, per_epoch_fraction, steps or poly",
        )
        _require(
            all(0 < share <= 1 for share in self.drops),
            f"drops={self.drops}: must be shares of the run, above 0 and at most 1",
        )
        _require(
            self.layer_decay_rule in ("single", "group"),
            f"layer_decay_rule={self.layer_decay_rule!r}: single or group",
        )
        _require(self.lr > 0, f"lr={self.lr}: must be above 0")
        _require(
            0 <= self.min_lr <= self.lr, f"min_lr={self.min_lr}: must be from 0 to lr={self.lr}"
        )
        _require(self.weight_decay >= 0, f"weight_decay={self.weight_decay}: must not be negative")
        _require(self.batch_size >= 1, f"batch_size={self.batch_size}: must be at least 1")
        _require(self.epochs >= 1, f"epochs={self.epochs}: must be at least 1")
        self._check_warmup()
        _require(
            0 < self.layer_decay <= 1,
            f"layer_decay={self.layer_decay}: must be above 0 and at most 1 (1 is off)",
        )
        _require(
            self.clip_grad is None or self.clip_grad > 0,
            f"clip_grad={self.clip_grad}: must be above 0; leave it out to clip nothing",
        )

    def _check_warmup(self) -> None:
        steps, warmup = self.steps, self.warmup_steps
        _require(steps is None or steps >= 1, f"steps={steps}: must be at least 1")
        _require(
            steps is not None or 0 <= self.warmup_epochs <= self.epochs,
            f"warmup_epochs={self.warmup_epochs}: must be from 0 to epochs={self.epochs}; "
            "shorten the warm-up or train longer",
        )
        _require(
            warmup is None or (warmup >= 0 and (steps is None or warmup <= steps)),
            f"warmup_steps={warmup}: must be from 0 to steps={steps}; shorten the warm-up or train "
            "longer",
        )

    def total_steps(self, steps_per_epoch: int) -> int:
        """Optimiser steps of the run."""
        return self.steps if self.steps is not None else self.epochs * steps_per_epoch

    def lasting(self, *, steps: int | None = None, epochs: int | None = None) -> Self:
        """The same for a run of another length, in steps or in epochs.

        Of a run that is counted in steps the warm-up in steps keeps its share.
        """
        share = None
        if self.steps is not None and self.warmup_steps is not None:
            share = self.warmup_steps / self.steps
        if steps is not None:
            warmup = self.warmup_steps if share is None else round(steps * share)
            return replace(self, steps=steps, warmup_steps=warmup)
        assert epochs is not None, "a length in steps or in epochs"
        if share is None:
            return replace(self, steps=None, epochs=epochs)
        warmup_epochs = epochs * share
        return replace(
            self, steps=None, epochs=epochs, warmup_steps=None, warmup_epochs=warmup_epochs
        )

    @property
    def length(self) -> str:
        """How long the run is, in words."""
        return f"{self.epochs} epochs" if self.steps is None else f"{self.steps:,} steps"


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a run uses the machine, what it keeps and how often it speaks.

    Attributes:
        seed: together with step, rank, epoch and sample index it decides every random choice.
        device: "auto" (a CUDA device if there is one), "cpu" or "cuda".
        precision: "auto", "fp32", "bf16" or "fp16"; the last two are autocast over fp32 weights.
        compile: compile the network with `torch.compile`; on a CPU this needs a C++ compiler.
        channels_last: keep images and convolution weights in NHWC order.
        deterministic: on CUDA choose only reproducible kernels, which makes a resumed run
            bit-identical there too; False lets cuDNN choose by timing.
        ema_decay: decay of the averaged weights; None keeps no average.
        ema_warmup: use min(decay, (1 + t) / (10 + t)) at step t, for short runs.
        micro_batch: most images per device and forward pass; None for as many as the step needs.
            The effective batch is kept by accumulation.
        parallel: "ddp" or "fsdp" when there are several processes.
        sync_batch_norm: take the statistics of batch norms over all processes.
        checkpoint_every_steps: None for once per epoch.
        keep_checkpoints: newest checkpoints kept, beside the best.
        eval_every_epochs: evaluations are also made at the end; 0 for only there.
        log_every_steps: steps from one log line to the next.

    Raises:
        ValueError: a value outside its range.
    """

    seed: int = 0
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    compile: bool = False
    channels_last: bool = True
    deterministic: bool = True
    ema_decay: float | None = None
    ema_warmup: bool = False
    micro_batch: int | None = None
    parallel: Literal["ddp", "fsdp"] = "ddp"
    sync_batch_norm: bool = False
    checkpoint_every_steps: int | None = None
    keep_checkpoints: int = 3
    eval_every_epochs: int = 1
    log_every_steps: int = 10

    def __post_init__(self) -> None:
        _require(
            self.precision in ("auto", "fp32", "bf16", "fp16"),
            f"precision={self.precision!r}: auto, fp32, bf16 or fp16",
        )
        _require(self.parallel in ("ddp", "fsdp"), f"parallel={self.parallel!r}: ddp or fsdp")
        _require(
            self.ema_decay is None or 0 <= self.ema_decay < 1,
            f"ema_decay={self.ema_decay}: must be from 0 to below 1; leave it out for no average",
        )
        _require(
            self.micro_batch is None or self.micro_batch >= 1,
            f"micro_batch={self.micro_batch}: must be at least 1",
        )
        _require(
            self.checkpoint_every_steps is None or self.checkpoint_every_steps >= 1,
            f"checkpoint_every_steps={self.checkpoint_every_steps}: must be at least 1",
        )
        _require(
            self.keep_checkpoints >= 1,
            f"keep_checkpoints={self.keep_checkpoints}: must be at least 1",
        )
        _require(
            self.eval_every_epochs >= 0,
            f"eval_every_epochs={self.eval_every_epochs}: must not be negative",
        )
        _require(
            self.log_every_steps >= 1, f"log_every_steps={self.log_every_steps}: must be at least 1"
        )
        _require(
            self.parallel != "fsdp" or self.precision != "fp16",
            "precision=fp16 does not work with parallel=fsdp: use bf16 or fp32",
        )
