"""`optimize`: a trained ConvNeXt as a module for inference on a CPU, its weights packed once."""

import copy
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NoReturn, cast

import torch
from torch import Tensor, nn

from convnext.deploy.calibration import QuantisationReport, calibrate
from convnext.deploy.folding import check_network, folded_weights, plan_of
from convnext.deploy.half_range import HalfRange
from convnext.deploy.quantised import BlockRanges, quantised_weights
from convnext.deploy.ranges import Watch
from convnext.models.backbone import Backbone
from convnext.models.convnext import NORM_EPS, ConvNeXt, ConvNeXtConfig
from convnext.ops.cpu.features import choose, runs
from convnext.ops.cpu.fused import fused_convnext, network_numbers
from convnext.ops.cpu.kernel_sets import KernelSet, Precision, kernel_set
from convnext.ops.cpu.packing import ALIGNMENT, check, offsets, pack, unpack
from convnext.ops.cpu.plan import Plan

__all__ = ["FusedConvNeXt", "optimize"]

logger = logging.getLogger(__name__)


def unwatched(items: Sequence[Any], title: str) -> Iterable[Any]:
    """The items themselves."""
    return items


def optimize(
    model: nn.Module,
    dtype: Precision | Literal["int8", "auto"] = "auto",
    *,
    calibration: Iterable[Tensor] | None = None,
    max_error: float = 0.05,
    release: bool = False,
    watch: Watch = unwatched,
) -> "FusedConvNeXt":
    """Make a network for inference on this CPU: one call of native code from image to pooled map.

    The result answers as the network does, in fp32, through `forward`, `forward_features`,
    `forward_head` and `feature_info`. It shares no memory with the network, which may be deleted.
    Where no native code can run it computes with plain PyTorch; a line in the log says why.

    Args:
        model: A ConvNeXt V1, V2 or isotropic network in evaluation mode, on the CPU; any classes,
            channels, stem and ``features_only``.
        dtype: Precision of the matrix products; all else is fp32, but for bf16 and int8 on AMX:
            there GELU errs by up to 6e-4, and the maps between blocks are bf16 too. With
            AVX512-FP16 these maps and the depthwise convolutions are fp16, if the weights show that
            no image can make values too large for it. "fp32"; "bf16";
            "auto": bf16 where this CPU computes faster in it, else fp32; "int8": 8-bit integers in
            the pointwise layers of those blocks that they harm least, bf16 or fp32 elsewhere.
        calibration: For "int8": batches of images (N, C, H, W), normalised as the network takes
            them, such as it will see: 100 or more for the ranges of values.
        max_error: For "int8": how far the logits of calibration images may change, root mean square
            relative to their spread over the classes. `FusedConvNeXt.quantisation` says how far
            they do, and what each block adds.
        release: Whether to free the blocks' own memory as they are packed, for networks of which
            two do not fit: nothing can be computed with ``model`` afterwards.
        watch: For "int8", which takes minutes: ``watch(items, title)`` is called for each part of
            the calibration, and gives the items while it shows how far that has come.

    Raises:
        ValueError: The network has no fused form, the CPU no kernels for this precision, or
            calibration images are missing or useless.
    """
    if isinstance(model, FusedConvNeXt):
        raise ValueError(
            f"the network is already optimized, for {model.kernels.name}; optimize the original to "
            "change that"
        )
    network = check_network(model)
    if dtype != "int8":
        if calibration is not None:
            raise ValueError(f"dtype={dtype!r} needs no calibration images, only 'int8' does")
        return FusedConvNeXt(network, choose(dtype).kernels, release=release)
    if calibration is None:
        raise ValueError("dtype='int8' needs calibration=, batches of normalised images")
    if not max_error >= 0:
        raise ValueError(f"max_error={max_error} must be at least 0 (0 quantises no block)")
    return _quantise(network, calibration, max_error, release, watch)


def _quantise(
    network: ConvNeXt,
    calibration: Iterable[Tensor],
    max_error: float,
    release: bool,
    watch: Watch,
) -> "FusedConvNeXt":
    features = network.config.features_only
    tail = (
        nn.Identity()
        if features
        else nn.Sequential(copy.deepcopy(network.norm), copy.deepcopy(network.head)).float()
    )
    ranges, report = calibrate(
        plan_of(network),
        folded_weights(network),
        map(network._checked, calibration),
        eps=NORM_EPS,
        answer=cast(Callable[[Tensor], Tensor], tail),
        classes=not features and network.config.num_classes > 1,
        max_error=max_error,
        watch=watch,
    )
    logger.info("quantised: %s", report)
    fused = FusedConvNeXt(network, choose("int8").kernels, ranges, release=release)
    fused.quantisation = report
    return fused


class FusedConvNeXt(Backbone):
    """A ConvNeXt for inference whose stem and stages are one operator on packed weights.

    The state dict holds the packed weights and says for which kernels; loaded where other kernels
    run, by `load_state_dict`, `torch.load` or `pickle`, they are packed anew, without loss but for
    a change from fp32 to bf16.

    Args:
        network: One that `check_network` accepts.
        kernels: Who reads the weights. Where values of this network may be too large for maps in
            fp16, `KernelSet.otherwise` takes their place; it stays, whatever is loaded later.
        ranges: For each block how its operands are quantised; None: the block is not. By
            default none is.
        release: Whether the network gives up the memory of its blocks as they are packed.

    Attributes:
        quantisation: What was measured when blocks were quantised; None if that was not done here.
    """

    packed: Tensor
    quantisation: QuantisationReport | None = None

    def __init__(
        self,
        network: ConvNeXt,
        kernels: KernelSet,
        ranges: Sequence[BlockRanges | None] | None = None,
        *,
        release: bool = False,
    ) -> None:
        super().__init__()
        self.config: ConvNeXtConfig = network.config
        self._plan = plan_of(network)
        weights = folded_weights(network, release=release)
        if ranges is not None and any(ranges):
            flags = tuple(found is not None for found in ranges)
            self._plan = replace(self._plan, quantised=flags)
            weights = quantised_weights(self._plan, weights, ranges)
        packed, kernels = _packed(self._plan, weights, kernels)
        self._numbers = network_numbers(self._plan, kernels)
        self.register_buffer("packed", packed)
        if not self.config.features_only:
            self.norm = copy.deepcopy(network.norm).float()
            self.head = copy.deepcopy(network.head).float()
        self.requires_grad_(False)
        super().train(False)

    @property
    def kernels(self) -> KernelSet:
        """The kernels that the weights are packed for."""
        return kernel_set(self._numbers[0])

    @property
    def plan(self) -> Plan:
        """The numbers that describe the network."""
        return self._plan

    @property
    def network_numbers(self) -> list[int]:
        """What the operator has to know about the network."""
        return self._numbers

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits, pooled features, or a list of maps, as the network's own."""
        if self.config.features_only:
            return self.forward_maps(x)
        (pooled,) = self._outputs(x, [len(self._plan.dims)])
        return cast(Tensor, self.head(self.norm(pooled)))

    def forward_maps(self, x: Tensor) -> list[Tensor]:
        """The outputs of the chosen stages, each (N, C_i, H_i, W_i), not normalised."""
        indices = sorted(set(self._out_indices))
        maps = dict(zip(indices, self._outputs(x, indices), strict=True))
        return [maps[i] for i in self._out_indices]

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map, (N, C, H', W'), before pooling and norm."""
        return self._outputs(x, [len(self._plan.dims) - 1])[0]

    def _outputs(self, x: Tensor, wanted: list[int]) -> list[Tensor]:
        x = self._checked(x)
        return cast(list[Tensor], fused_convnext(x, self.packed, self._numbers, wanted, NORM_EPS))

    def _checked(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" and not torch.compiler.is_compiling():
            raise ValueError(f"images on {x.device}: an optimized network takes them on the CPU")
        return super()._checked(x)

    def train(self, mode: bool = True) -> "FusedConvNeXt":
        """Stay in evaluation mode.

        Raises:
            ValueError: Training is asked for.
        """
        if mode:
            self._refuse("be trained")
        return self

    def requires_grad_(self, requires_grad: bool = True) -> "FusedConvNeXt":
        """Stay without gradients.

        Raises:
            ValueError: Gradients are asked for.
        """
        if requires_grad:
            self._refuse("be trained")
        return super().requires_grad_(False)

    def reset_classifier(self, num_classes: int, head_init_scale: float = 1.0) -> None:
        """Refused: an optimized network is not for training."""
        self._refuse("get a new head")

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Refused: an optimized network is not for training."""
        self._refuse("be trained")

    def layer_ids(self, rule: Literal["single", "group"]) -> tuple[dict[str, int], int]:
        """Refused: an optimized network is not for training."""
        self._refuse("be trained")

    def _refuse(self, what: str) -> NoReturn:
        raise ValueError(f"an optimized network cannot {what}; change the original, then optimize")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FusedConvNeXt":
        there = fn(torch.zeros(1))
        if there.device.type != "cpu" or there.dtype != torch.float32:
            self._refuse(f"be moved to {there.device}, {there.dtype}")
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def get_extra_state(self) -> Tensor:
        """The number of the kernels that the weights are packed for; then, if some are, which
        blocks are quantised.
        """
        return torch.tensor([self._numbers[0], *map(int, self._plan.quantised)])

    def set_extra_state(self, state: Tensor) -> None:
        """Nothing is left to do: loading has packed the weights for the kernels in use."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        key, extra = f"{prefix}packed", state_dict.get(f"{prefix}_extra_state")
        if extra is None and key in state_dict:
            raise ValueError(
                f"{key} comes without {prefix}_extra_state, which says for which kernels it is "
                "packed; load a whole state_dict() of an optimized network"
            )
        if extra is not None and key in state_dict:
            number, *flags = (int(value) for value in extra.flatten())
            theirs = kernel_set(number)
            plan = replace(self._plan, quantised=tuple(map(bool, flags)))
            check(plan, state_dict[key], theirs)  # before anything is changed
            ours = self.kernels
            if plan != self._plan:  # other blocks are quantised there
                ours = _kernels_here(ours, plan)
                self.packed = self.packed.new_empty(offsets(plan, ours)[-1])
                self.quantisation = None
            weights, ours = _converted(plan, state_dict[key], theirs, ours)
            self._plan, self._numbers = plan, network_numbers(plan, ours)
            state_dict = {**state_dict, key: weights}
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        super().__setstate__(dict(state))  # type: ignore[no-untyped-call]
        packed_for, here = self.kernels, _kernels_here(self.kernels, self._plan)
        self.packed, here = _converted(self._plan, self.packed, packed_for, here)
        self._numbers = network_numbers(self._plan, here)


def _packed(plan: Plan, weights: Iterable[Tensor], kernels: KernelSet) -> tuple[Tensor, KernelSet]:
    """Weights for these kernels, or for those that serve where values do not fit fp16."""
    if kernels.otherwise is None:
        return pack(plan, weights, kernels), kernels
    values = HalfRange(plan)
    packed = pack(plan, values.follow(weights), kernels)
    if values.fits:
        return packed, kernels
    logger.info("maps are kept in bf16: some values may be too large for fp16")
    return packed, kernels.otherwise


def _converted(
    plan: Plan, weights: Tensor, old: KernelSet, new: KernelSet
) -> tuple[Tensor, KernelSet]:
    """Packed weights for other kernels, at an address that these read without a copy."""
    check(plan, weights, old)
    if old != new:
        return _packed(plan, unpack(plan, weights, old), new)
    return weights.clone() if weights.data_ptr() % ALIGNMENT else weights, new


def _kernels_here(wanted: KernelSet, plan: Plan) -> KernelSet:
    """These kernels if they run here, else the best of their precision, else the best of fp32."""
    quantised = any(plan.quantised)
    if runs(wanted) and (wanted.int8 is not None) >= quantised:
        return wanted
    try:
        return choose("int8" if quantised else wanted.precision).kernels
    except ValueError:
        return choose("fp32").kernels
