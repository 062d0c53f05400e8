"""Fit the rational function of `convnext/ops/cpu/native/gelu.h`.

GELU(x) = x · Φ(x). The normal distribution function is fitted as Φ(x) = 1/2 + x · P(x²) / Q(x²) on
|x| < LIMIT, beyond which it counts as 0 or 1, with the smallest greatest error: rounds of linear
least squares, each divided by the last denominator and weighted by the last errors (Lawson).

Run: python tools/fit_gelu.py
"""

import numpy as np
import torch

LIMIT = 5.2
DEGREE_P, DEGREE_Q = 6, 4
ROUNDS = 400


def fit() -> tuple[np.ndarray, np.ndarray, float]:
    """Coefficients of P and Q (Q's constant is 1), lowest first, and the greatest error of Φ."""
    nodes = np.cos(np.pi * (np.arange(4000) + 0.5) / 8000)  # (0, 1), dense at the limit
    x = LIMIT * nodes
    phi = torch.special.ndtr(torch.from_numpy(x)).numpy() - 0.5
    u = (x / LIMIT) ** 2  # scaled, so that the powers stay comparable
    p_columns = x[:, None] * u[:, None] ** np.arange(DEGREE_P + 1)
    q_columns = -phi[:, None] * u[:, None] ** np.arange(1, DEGREE_Q + 1)
    columns = np.concatenate([p_columns, q_columns], axis=1)
    weight, q = np.ones_like(x), np.ones_like(x)
    best: tuple[np.ndarray, np.ndarray, float] | None = None
    for _ in range(ROUNDS):
        scale = np.sqrt(weight) / q
        solution = np.linalg.lstsq(columns * scale[:, None], phi * scale, rcond=None)[0]
        q = 1 - q_columns @ solution[DEGREE_P + 1 :] / phi
        error = np.abs(p_columns @ solution[: DEGREE_P + 1] / q - phi)
        if best is None or error.max() < best[2]:
            powers_p = LIMIT ** (2.0 * np.arange(DEGREE_P + 1))
            powers_q = LIMIT ** (2.0 * np.arange(1, DEGREE_Q + 1))
            p = solution[: DEGREE_P + 1] / powers_p
            best = p, np.concatenate([[1.0], solution[DEGREE_P + 1 :] / powers_q]), error.max()
        weight = weight * error
        weight = np.maximum(weight / weight.sum(), 1e-12)
    assert best is not None
    return best


def main() -> None:
    p, q, error = fit()
    print(f"greatest error of the fit of Φ: {error:.2e}")
    print("P:", ", ".join(f"{c:.9e}f" for c in p))
    print("Q:", ", ".join(f"{c:.9e}f" for c in q))
    x = torch.linspace(-LIMIT, LIMIT, 1_000_001)
    u = x * x
    top, bottom = torch.full_like(x, p[-1]), torch.full_like(x, q[-1])
    for c in p[-2::-1]:
        top = torch.addcmul(torch.full_like(x, c).double(), top.double(), u.double()).float()
    for c in q[-2::-1]:
        bottom = torch.addcmul(torch.full_like(x, c).double(), bottom.double(), u.double()).float()
    phi = 0.5 + x * (top / bottom)
    exact = torch.special.ndtr(x.double()) * x
    wrong = (x * phi - exact).abs() / x.abs().clamp(min=1)
    print(f"in fp32, of max(1, |x|): {wrong.max():.2e} at {x[wrong.argmax()]:.3f}")


if __name__ == "__main__":
    main()
