"""gain = E * X^alpha, fitted in linear space as EST's figures of scaling are (arXiv 2602.10811).

The paper prints curves such as 0.61 * C^0.12 with the gain in per cent; that C is in GFLOPs per 60 and the size in
millions of parameters is our reading, with which they reproduce its table 3. How it fitted is not stated. In linear
space a gain may be zero or negative at some size, and a large gain is not worth less than a small one.

For a given alpha the best E is known in closed form, so one number is searched: a grid finds the valley, SciPy its
bottom.

Legend: S sizes, A grid of alphas, R draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

FloatArray = npt.NDArray[np.float64]
STEEPEST = 8.0
"""Alphas are searched between minus and plus this; a gain that appears at the last size alone ends there."""
_GRID = np.linspace(-STEEPEST, STEEPEST, 321)


@dataclass(frozen=True)
class PowerLaw:
    """gain = scale * x ** alpha. residual: root mean square of the gain minus the curve."""

    scale: float
    alpha: float
    residual: float

    def at(self, x: FloatArray) -> FloatArray:
        return self.scale * x**self.alpha


def fit(x_S: FloatArray, gain_S: FloatArray) -> PowerLaw | None:
    """Least squares over a positive scale; None where the best curve is flat zero: there is no gain to speak of."""
    assert (x_S > 0).all()
    assert len(np.unique(x_S)) > 1
    # Around their geometric mean, so that no power overflows.
    log_S = np.log(x_S)
    middle = float(log_S.mean())
    best = _GRID[int(np.argmax(_explained(_GRID, log_S - middle, gain_S)))]
    step = float(_GRID[1] - _GRID[0])
    bounds = (max(best - step, -STEEPEST), min(best + step, STEEPEST))
    found: Any = minimize_scalar(
        lambda alpha: -_explained(np.array([alpha]), log_S - middle, gain_S)[0],
        bounds=bounds,
        method="bounded",
        options={"xatol": 1e-7},
    )
    alpha = float(found.x)
    power_S = np.exp(alpha * (log_S - middle))
    scale = float(power_S @ gain_S / (power_S @ power_S))
    if scale <= 0:
        return None
    residual = math.sqrt(float(np.mean((gain_S - scale * power_S) ** 2)))
    return PowerLaw(scale * math.exp(-alpha * middle), alpha, residual)


def _explained(alpha_A: FloatArray, log_S: FloatArray, gain_S: FloatArray) -> FloatArray:
    """How much of the sum of squared gains the best curve with a positive scale takes away, for each alpha. [A]."""
    power_AS = np.exp(alpha_A[:, None] * log_S)
    along_A = np.maximum(power_AS @ gain_S, 0.0)
    return along_A**2 / (power_AS**2).sum(axis=1)


def alphas(x_S: FloatArray, gain_RS: FloatArray) -> FloatArray:
    """Alpha of every draw, [R]; NaN where a draw has no gain."""
    found = [fit(x_S, gain_S) for gain_S in gain_RS]
    return np.array([math.nan if law is None else law.alpha for law in found])
