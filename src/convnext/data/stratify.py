"""A seeded split that keeps the share of every class and does not depend on order or machine."""

import hashlib
import os
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray


def stratified_split(
    keys: Sequence[str], strata: Sequence[Hashable], fractions: Sequence[float], seed: int
) -> NDArray[np.int64]:
    """Assign every item to part 0 (the rest) or to part 1, 2, ... with the given fractions.

    Within a stratum of n items the order is that of sha256(f"{seed}:{key}"); part j takes the next
    round(n * fractions[j-1]) of them. Adding items moves few others between parts. Part 0 keeps at
    least one item of every stratum, and a stratum of two or more gives each part one if it can.

    Returns:
        (N,) int64, the part of each item.
    """
    digests = [hashlib.sha256(os.fsencode(f"{seed}:{key}")).digest() for key in keys]
    groups: dict[Hashable, list[int]] = {}
    for i, stratum in enumerate(strata):
        groups.setdefault(stratum, []).append(i)
    parts = np.zeros(len(keys), np.int64)
    for members in groups.values():
        members.sort(key=lambda i: digests[i])
        start = 0
        for part, fraction in enumerate(fractions, 1):
            wanted = max(1, round(len(members) * fraction)) if fraction > 0 else 0
            count = min(wanted, len(members) - 1 - start)
            parts[members[start : start + count]] = part
            start += count
    return parts
