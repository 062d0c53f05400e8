"""Coefficients of the GELU in `native/amx_gelu.h`: python tools/fit_gelu_segments.py.

x Φ(x) is taken as c0 + c1 x + c2 x² on each interval of width 1 / scale around i / scale. Beyond
the seventh on either side it is 0 or x. gelu(-x) = gelu(x) - x gives the negative side from the
positive one; the middle interval is x / 2 + c2 x², so that gelu(0) = 0.
"""

from math import erf

import numpy as np
from numpy.typing import NDArray

NUM = 7  # intervals on each side
Floats = NDArray[np.float64]


def gelu(x: Floats) -> Floats:
    return x * 0.5 * (1 + np.vectorize(erf)(x / np.sqrt(2)))


def minimax(powers: list[int], x: Floats, y: Floats) -> Floats:
    """Coefficients of the smallest largest error (Lawson: weight grows where the error is)."""
    basis, weights = np.stack([x**p for p in powers], 1), np.ones_like(x)
    best, least = np.zeros(len(powers)), np.inf
    for _ in range(400):
        root = np.sqrt(weights)
        solution = np.linalg.lstsq(basis * root[:, None], y * root, rcond=None)[0]
        error = np.abs(basis @ solution - y)
        if error.max() < least:
            best, least = solution, error.max()
        weights *= error / error.mean()
        weights = np.maximum(weights / weights.mean(), 1e-9)
    return best


def table(scale: float) -> Floats:
    """(16, 3): c0, c1, c2 of interval i in row i modulo 16."""
    out = np.zeros((16, 3))
    x = np.linspace(0, 0.5 / scale, 2001)
    out[0] = 0, 0.5, minimax([2], x, gelu(x) - x / 2)[0]
    for i in range(1, NUM):
        x = np.linspace((i - 0.5) / scale, (i + 0.5) / scale, 2001)
        c0, c1, c2 = minimax([0, 1, 2], x, gelu(x))
        out[i], out[-i] = (c0, c1, c2), (c0, 1 - c1, c2)
    out[NUM] = 0, 1, 0
    return out


def largest_error(scale: float) -> float:
    x = np.linspace(-8, 8, 400001)
    index = np.rint(np.clip(x, -NUM / scale, NUM / scale) * scale).astype(int) % 16
    c0, c1, c2 = table(scale).astype(np.float32).astype(np.float64)[index].T
    return float(np.abs((c2 * x + c1) * x + c0 - gelu(x)).max())


def main() -> None:
    scale = min(np.arange(1.76, 1.9, 0.01), key=largest_error)
    print(f"scale {scale:.2f}, largest error {largest_error(scale):.2e}")
    for name, column in zip(("c0", "c1", "c2"), table(scale).T, strict=True):
        print(f"{name}: " + ", ".join(f"{value:.9g}f" for value in column))


if __name__ == "__main__":
    main()
