"""Which blocks of a network can multiply 8-bit integers, and how: measured on images."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from convnext.deploy.blockwise import Blockwise
from convnext.deploy.quantised import BlockRanges
from convnext.deploy.ranges import Watch, find_ranges
from convnext.ops.cpu.plan import Plan

__all__ = ["BlockError", "QuantisationReport", "calibrate"]

MEASURED = 64  # images on which errors are measured; ranges come from all
SINGLY = 16  # of these, those on which each block is tried alone: it costs the rest of the network


@dataclass(frozen=True)
class BlockError:
    """What 8 bits cost in one block.

    Attributes:
        name: Of the block in the network.
        error: Of the answers if only this block is quantised: root mean square, relative.
        quantised: Whether it is.
    """

    name: str
    error: float
    quantised: bool


@dataclass(frozen=True)
class QuantisationReport:
    """What was measured on the calibration images, against the network in fp32.

    Errors are root mean squares of the change of logits (without classes: of the pooled last map),
    relative to those of the deviation of logits from their mean over the classes.

    Attributes:
        images: On which ranges were found.
        measured: Images of these on which errors were measured; those of single blocks on the first
            16.
        max_error: The limit for `error`.
        blocks: In order.
        error_of_all: With every block quantised.
        error: With those that are.
        agreement_of_all: Share of images with the same top class, every block quantised; None
            without classes.
        agreement: With those that are.
    """

    images: int
    measured: int
    max_error: float
    blocks: tuple[BlockError, ...]
    error_of_all: float
    error: float
    agreement_of_all: float | None
    agreement: float | None

    def __str__(self) -> str:
        width = max((len(b.name) for b in self.blocks), default=0)
        lines = [
            f"{b.name:{width}}  error {b.error:.4f}  {'int8' if b.quantised else 'kept as it is'}"
            for b in self.blocks
        ]
        done = sum(b.quantised for b in self.blocks)
        lines.append(
            f"{done} of {len(self.blocks)} blocks in int8 ({self.images} calibration images, "
            f"errors of all on {self.measured})"
        )
        for what, error, agreement in (
            ("all blocks in int8", self.error_of_all, self.agreement_of_all),
            ("as chosen", self.error, self.agreement),
        ):
            same = "" if agreement is None else f", same top class for {agreement:.1%}"
            lines.append(f"{what}: error {error:.4f}{same}")
        return "\n".join(lines)


Answer = Callable[[Tensor], Tensor]


@torch.no_grad()
def calibrate(
    plan: Plan,
    weights: Iterable[Tensor],
    batches: Iterable[Tensor],
    *,
    eps: float,
    answer: Answer,
    classes: bool,
    max_error: float,
    watch: Watch,
) -> tuple[list[BlockRanges | None], QuantisationReport]:
    """Find the ranges of hidden values, and the blocks whose quantisation harms least.

    Every block saves about the same time, so those with the smallest errors are quantised, as many
    as their squares sum up to `max_error` squared; if together they do more harm than that, the
    worst are taken out again.

    Args:
        plan: A network without quantised blocks.
        weights: Of its slots.
        batches: Images (N, C, H, W) as the network takes them.
        eps: Of every LayerNorm.
        answer: The pooled last map to logits, or to what counts in their place.
        classes: Whether these are logits.
        max_error: Limit for the error of the answers, see `QuantisationReport`.
        watch: Called with what is to be done next, and its title.

    Returns:
        For each block its range, None if it stays as it is; and what was measured.

    Raises:
        ValueError: There are no images, or they give values that are not finite.
    """
    images = [batch.float() for batch in batches if len(batch)]
    total = sum(map(len, images))
    if not total:
        raise ValueError("no calibration images: give some batches of shape (N, C, H, W)")
    if not all(plan.depths):
        raise ValueError(f"depths {plan.depths}: only networks with blocks in all stages quantise")
    parts = Blockwise.of(plan, weights, eps)
    parts.ranges = find_ranges(parts, images, watch)
    few = _first(images, MEASURED)
    errors = _block_errors(parts, _first(few, SINGLY), answer, watch)

    def answers(flags: Sequence[bool], title: str) -> list[Tensor]:
        return [answer(parts.pooled(parts.enter(x), 0, flags)) for x in watch(few, title)]

    exact = answers([False] * len(errors), "answers in fp32")

    def compare(flags: Sequence[bool]) -> tuple[float, float | None]:
        found = answers(flags, f"answers with {sum(flags)} blocks in int8")
        return _difference(found, exact), _agreement(found, exact) if classes else None

    before = compare([True] * len(errors))
    flags = _chosen(errors, max_error)
    after = before if all(flags) else compare(flags)
    while after[0] > max_error and any(flags):
        worst = max((e, i) for i, e in enumerate(errors) if flags[i])[1]
        flags[worst] = False
        after = compare(flags)
    names = [f"stages.{s}.blocks.{b}" for s, d in enumerate(plan.depths) for b in range(d)]
    blocks = tuple(map(BlockError, names, errors, flags))
    measured = sum(map(len, few))
    report = QuantisationReport(
        total, measured, max_error, blocks, before[0], after[0], before[1], after[1]
    )
    ranges = [r if flag else None for r, flag in zip(parts.ranges, flags, strict=True)]
    return ranges, report


def _block_errors(
    parts: Blockwise, images: Sequence[Tensor], answer: Answer, watch: Watch
) -> list[float]:
    """Of the answers with one block quantised, for each."""
    exactly = [False] * len(parts.blocks)
    inputs = [parts.enter(batch) for batch in images]  # of the block in turn
    exact = [answer(parts.pooled(x, 0, exactly)) for x in inputs]
    errors = []
    for i in watch(range(len(parts.blocks)), "error of each block"):
        changed = [parts.pooled(parts.step(i, x, True), i + 1, exactly) for x in inputs]
        errors.append(_difference(list(map(answer, changed)), exact))
        inputs = [parts.step(i, x, False) for x in inputs]
    return errors


def _chosen(errors: Sequence[float], max_error: float) -> list[bool]:
    flags, square = [False] * len(errors), 0.0
    for error, i in sorted((e, i) for i, e in enumerate(errors)):
        square += error**2
        flags[i] = square <= max_error**2
    return flags


def _difference(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    square = sum(float((a - b).double().square().sum()) for a, b in zip(found, exact, strict=True))
    return math.sqrt(square / max(sum(map(_spread, exact)), 1e-30))


def _spread(answers: Tensor) -> float:
    """Squared deviations from the mean of each row; a single number has none."""
    answers = answers.double()
    if answers.shape[1] > 1:
        answers = answers - answers.mean(1, keepdim=True)
    return float(answers.square().sum())


def _agreement(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    same = [a.argmax(1) == b.argmax(1) for a, b in zip(found, exact, strict=True)]
    return float(torch.cat(same).float().mean())


def _first(images: Sequence[Tensor], most: int) -> list[Tensor]:
    """So many images of the first batches."""
    few: list[Tensor] = []
    for batch in images:
        room = most - sum(map(len, few))
        if room > 0:
            few.append(batch[:room])
    return few
