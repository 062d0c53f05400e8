"""How a classifier computes its answers: fused native code, compiled, or layer by layer."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

from convnext.deploy.folding import check_network
from convnext.deploy.fused import optimize
from convnext.models.backbone import Backbone
from convnext.ops.cpu.features import Choice, choose
from convnext.ops.cpu.kernel_sets import PLAIN, KernelSet
from convnext.ops.dispatch import use_reference
from convnext.run.scoring import progress

__all__ = ["WORTHWHILE", "Engine", "Running", "engine_of_this_machine", "running"]

logger = logging.getLogger(__name__)

# Images from which on "auto" packs: it takes as long as native code saves on about so many, with
# AVX2 (with AVX-512 on fewer).
WORTHWHILE = 4

Engine = Literal["auto", "fused", "int8", "compile", "eager"]


class Running(NamedTuple):
    """A network as an engine runs it.

    Attributes:
        logits: Images (N, C, H, W) on the network's device to class scores (N, K).
        engine: Which engine it is.
        reason: What it is and why, in a few words.
        report: Of what quantisation changes, in lines; else empty.
    """

    logits: Callable[[Tensor], Tensor]
    engine: Engine
    reason: str
    report: str = ""


def running(
    network: Backbone,
    engine: Engine = "auto",
    calibration: Iterable[Tensor] = (),
    *,
    images: int = WORTHWHILE,
    release: bool = False,
) -> Running:
    """A network as the engine runs it.

    Args:
        network: In evaluation mode, on its device.
        engine: "auto": the fastest that computes in fp32, so that scores are the same everywhere
            up to rounding; "fused": native code in the fastest precision of this CPU, bf16 where it
            is; "int8": products of 8-bit integers in the blocks that they harm least; "compile":
            `torch.compile`; "eager": as it is.
        calibration: For "int8": batches of images as the network takes them.
        images: How many it will get at least; "auto" packs no weights for fewer than `WORTHWHILE`.
        release: Whether the network itself is not needed any more: then it gives up its memory as
            its weights are packed, else it stays as it is.

    Raises:
        ValueError: The engine cannot run this network here, or there are no images to calibrate.
    """
    if engine == "int8":
        found = _quantised(network, calibration, release)
    else:
        found = _chosen(network, engine, images, release)
    _say_once(f"engine: {found.engine} ({found.reason})")
    return found


def _chosen(network: Backbone, engine: Engine, images: int, release: bool) -> Running:
    if engine == "fused":
        check_network(network)  # a wrong network is the better reason
        kernels, reason = choose()
        if kernels is PLAIN:
            raise ValueError(
                f"no native kernels for engine 'fused': {reason}; try compile or eager"
            )
        return _fused(network, "auto", release)
    if engine == "compile":
        compiled = cast(Callable[[Tensor], Tensor], torch.compile(network))
        return Running(compiled, "compile", "torch.compile, as asked for")
    eager = cast(Callable[[Tensor], Tensor], network)
    if engine == "eager":
        return Running(eager, "eager", "as asked for")
    why = _why_not_fused(network, images)
    return Running(eager, "eager", why) if why else _fused(network, "fp32", release)


def _fused(network: Backbone, dtype: Literal["auto", "fp32"], release: bool) -> Running:
    fused = optimize(network, dtype, release=release)
    reason = f"{_taken(choose(dtype), fused.kernels)}{_faster(dtype)}"
    return Running(cast(Callable[[Tensor], Tensor], fused), "fused", reason)


def _quantised(network: Backbone, calibration: Iterable[Tensor], release: bool) -> Running:
    def watch(items: Sequence[Any], title: str) -> Iterator[Any]:
        return progress(items, f"calibrating: {title}", total=len(items), unit="steps")

    fused = optimize(network, "int8", calibration=calibration, release=release, watch=watch)
    slow = "; the same arithmetic in plain PyTorch, not fast" if fused.kernels is PLAIN else ""
    return Running(
        cast(Callable[[Tensor], Tensor], fused),
        "int8",
        f"{_taken(choose('int8'), fused.kernels)}{slow}",
        str(fused.quantisation),
    )


def _why_not_fused(network: Backbone, images: int) -> str:
    """Why "auto" leaves a network as it is; empty if it does not."""
    if next(network.parameters()).device.type != "cpu":
        return "native kernels are for CPUs"
    if use_reference():
        return "the published operators were asked for"
    try:
        check_network(network)
    except ValueError as error:
        return str(error)
    if images < WORTHWHILE:
        return "packing the weights takes longer than native code saves on so few images"
    kernels, reason = choose("fp32")
    return f"no native kernels: {reason}" if kernels is PLAIN else ""


def _taken(choice: Choice, kernels: KernelSet) -> str:
    """Which kernels a network got, and why these."""
    if kernels is choice.kernels:
        return f"{kernels.name}: {choice.reason}"
    return (
        f"{kernels.name}: values of this network may be too large for {choice.kernels.name}, the "
        f"{choice.reason}"
    )


def _faster(dtype: Literal["auto", "fp32"]) -> str:
    """What another option would take, if that is faster."""
    fastest = choose().kernels
    if fastest.precision == choose(dtype).kernels.precision:
        return ""
    return f"; --engine fused takes {_names(fastest)}, which is faster and rounds to bf16"


def _names(kernels: KernelSet) -> str:
    if kernels.otherwise is None:
        return kernels.name
    return f"{kernels.name} (or {kernels.otherwise.name}, if values may be too large for fp16)"


def engine_of_this_machine() -> str:
    """What "auto" takes for a ConvNeXt on the CPU here, and why, in a line."""
    if use_reference():
        return "eager (the published operators were asked for)"
    kernels, reason = choose("fp32")
    if kernels is PLAIN:
        return f"eager (no native kernels: {reason})"
    others = f"{_faster('fp32')}; --engine int8 takes {_names(choose('int8').kernels)}"
    return f"fused ({kernels.name}: {reason}{others})"


@cache
def _say_once(line: str) -> None:
    logger.info(line)
