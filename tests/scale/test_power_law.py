"""Known curves come back, also where gains are below zero; against SciPy's own fit of two numbers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import curve_fit

from ctr_rec.scale.power_law import STEEPEST, alphas, fit

SIZES = np.array([5.0, 10.0, 20.0, 33.0, 50.0])


@pytest.mark.parametrize(("scale", "alpha"), [(0.61, 0.12), (0.46, 0.14), (3.0, -0.5), (1e-9, 4.0), (0.2, 0.0)])
@pytest.mark.parametrize("unit", [1.0, 1e6, 1e-9])
def test_a_curve_without_noise_comes_back(scale: float, alpha: float, unit: float) -> None:
    x = SIZES * unit
    law = fit(x, scale * SIZES**alpha)
    assert law is not None
    assert law.alpha == pytest.approx(alpha, abs=1e-5)
    assert law.at(x) == pytest.approx(scale * SIZES**alpha, rel=1e-4)
    assert law.residual < 1e-4 * scale * 50.0 ** max(alpha, 0)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_least_squares_in_linear_space(seed: int) -> None:
    """Not in logarithms: one gain is below zero."""
    random = np.random.default_rng(seed)
    gain = 0.5 * SIZES**0.4 + random.normal(0, 0.2, 5)
    gain[0] = -0.1
    law = fit(SIZES, gain)
    assert law is not None
    expected, _ = curve_fit(lambda x, e, a: e * x**a, SIZES, gain, p0=(0.5, 0.4), maxfev=10_000)
    assert (law.scale, law.alpha) == pytest.approx(expected, rel=1e-3)
    assert law.residual == pytest.approx(float(np.sqrt(np.mean((gain - expected[0] * SIZES ** expected[1]) ** 2))))


def test_without_any_gain_there_is_no_law() -> None:
    assert fit(SIZES, np.full(5, -0.2)) is None
    assert fit(SIZES, np.zeros(5)) is None
    drawn = alphas(SIZES, np.stack([np.full(5, -0.2), np.full(5, 0.3), 0.1 * SIZES]))
    assert np.isnan(drawn[0])
    assert drawn[1:] == pytest.approx([0.0, 1.0], abs=1e-5)


def test_a_gain_of_the_last_size_alone_ends_at_the_steepest() -> None:
    law = fit(SIZES, np.array([0.0, 0.0, 0.0, 0.0, 1.0]))
    assert law is not None
    assert law.alpha == pytest.approx(STEEPEST, abs=1e-3)
