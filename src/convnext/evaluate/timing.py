"""Timing several things against each other on a machine that is never quiet."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

__all__ = ["interleaved", "latencies", "ratio", "spread"]


def interleaved(
    sides: Mapping[str, Callable[[], object]], *, rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Seconds a call of each side, round by round.

    A round times each side once, in turn, and the order rotates, so that a machine that slows down
    slows all sides.

    Args:
        sides: What to time; each is called twice before, to warm up.
        rounds: Number of rounds that count.
        seconds: About how long one side runs in one round.
    """
    calls = {}
    for name, function in sides.items():
        function()
        _synchronise()
        start = time.perf_counter()
        function()
        _synchronise()
        calls[name] = max(1, round(seconds / (time.perf_counter() - start)))
    times: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            for _ in range(calls[name]):
                sides[name]()
            _synchronise()
            times[name].append((time.perf_counter() - start) / calls[name])
    return times


def latencies(function: Callable[[], object], *, seconds: float, least: int = 10) -> list[float]:
    """Seconds of single calls, each waited for, for about the given time and at least so often."""
    times: list[float] = []
    while len(times) < least or sum(times) < seconds:
        start = time.perf_counter()
        function()
        _synchronise()
        times.append(time.perf_counter() - start)
    return times


def ratio(times: Mapping[str, list[float]], ours: Sequence[str], others: Sequence[str]) -> float:
    """Median over the rounds of (fastest of the others) / (fastest of ours); above 1 we win."""

    def fastest(names: Sequence[str]) -> list[float]:
        return [min(turn) for turn in zip(*(times[name] for name in names), strict=True)]

    pairs = zip(fastest(ours), fastest(others), strict=True)
    return statistics.median(other / own for own, other in pairs)


def spread(times: Sequence[float]) -> float:
    """Distance of the slowest from the fastest round, in percent of the median."""
    return 100 * (max(times) - min(times)) / statistics.median(times)


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
