"""What is said of a family: growth where it was made, flat where it was not, and a plain sentence instead of a fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ctr_rec.errors import DataError
from ctr_rec.scale.curve import FLOPS, PARAMETERS, Draws, draw, fit_family, gain
from tests.scale.curves import family, predictions

GROWING = [0.5, 0.7, 1.0, 1.4, 1.9]


def test_a_gain_is_in_per_cent_of_the_baseline() -> None:
    assert gain(0.6515, 0.6459) == pytest.approx(0.867, abs=1e-3), "EST over the MLP in its table 3"


def test_growth_is_seen_over_chance_and_over_a_baseline() -> None:
    named, points = family(GROWING)
    (beside,), (baseline,) = family([0.3])
    for other, reference in (({}, ()), (beside, baseline.gauc)):
        drawn = draw(named, other, draws=120)
        found = fit_family(points, reference, drawn, FLOPS)
        assert found.verdict == "grows"
        assert found.law is not None
        assert found.x == pytest.approx([1e-6, 2e-6, 4e-6, 8e-6, 16e-6])
        assert found.users is not None
        assert found.seeds is not None
        assert found.both is not None
        assert 0 < found.both.low < found.law.alpha < found.both.high
        assert found.users.low < found.law.alpha < found.users.high
        width = found.both.high - found.both.low
        each = [i.high - i.low for i in (found.users, found.seeds)]
        assert 0.8 * max(each) < width < 1.2 * sum(each), "both blur more than either, and not more than their sum"
        assert "the gain grows with C" in found.sentence
        assert f"interval {found.both.low:.3f} .. {found.both.high:.3f} over users and seeds (" in found.sentence
        assert f"{found.seeds.low:.3f} .. {found.seeds.high:.3f} over seeds)" in found.sentence


def test_a_family_that_stands_still_is_flat() -> None:
    named, points = family([1.0] * 4)
    found = fit_family(points, (), draw(named, {}, draws=120), PARAMETERS)
    assert found.verdict == "flat"
    assert found.both is not None
    assert found.both.low <= 0 <= found.both.high
    assert "flat: it is not shown that the gain changes with P, since the interval holds 0" in found.sentence


def test_a_family_that_gets_worse_shrinks() -> None:
    named, points = family(GROWING[::-1])
    assert fit_family(points, (), draw(named, {}, draws=60), PARAMETERS).verdict == "shrinks"


def test_one_seed_leaves_users_alone() -> None:
    named, points = family(GROWING, seeds=1)
    found = fit_family(points, (), draw(named, {}, draws=60), FLOPS)
    assert found.seeds is None
    assert found.both == found.users
    assert "over users alone, as there is one seed" in found.sentence


def test_seeds_are_spread_as_far_as_they_vary() -> None:
    """The mean of two seeds that are d apart has a standard error of d / 2; two drawn from two would say less."""
    _, points = family([0.5, 0.8, 1.2], seeds=2)
    points = [replace(p, gauc=(p.gauc[0], p.gauc[0])) for p in points[:2]] + points[2:]
    last = (0.70, 0.72)
    points[2] = replace(points[2], gauc=last)
    still = Draws(tuple(np.full((300, 2), p.gauc) for p in points), np.full((300, 1), 0.5))
    found = fit_family(points, (), still, FLOPS)
    assert found.seeds is not None
    assert found.users is not None
    assert found.users.low == pytest.approx(found.users.high), "no user was drawn"
    low, high = (0.71 - 0.01 * np.sqrt(2), 0.71 + 0.01 * np.sqrt(2))
    ends = [fit_family([*points[:2], replace(points[2], gauc=(end, end))], (), still, FLOPS).law for end in (low, high)]
    assert [found.seeds.low, found.seeds.high] == pytest.approx([law.alpha for law in ends if law], abs=1e-4)


def test_where_there_is_nothing_to_fit_a_sentence_says_so() -> None:
    named, points = family([0.5, 1.0])
    two = fit_family(points, (), draw(named, {}, draws=5), PARAMETERS)
    assert (two.law, two.verdict) == (None, "no fit")
    assert two.sentence.startswith(
        "no fit: P has 2 different value(s), in millions of dense parameters; a curve needs 3"
    )
    named, points = family([0.5, 0.6, 0.7])
    same = [replace(point, dense=9) for point in points]
    assert "no fit: P has 1 different value(s)" in fit_family(same, (), draw(named, {}, draws=5), PARAMETERS).sentence
    worse = fit_family(points, (0.99,), draw(named, {"b": predictions(9.0, 0)}, draws=5), FLOPS)
    assert worse.sentence.startswith("no fit: no size has a gain over the baseline")
    step = [replace(point, gauc=(value,) * 3) for point, value in zip(points, (0.5, 0.5, 0.6), strict=True)]
    steep = fit_family(step, (), draw(named, {}, draws=5), FLOPS)
    assert "no power law goes through these gains: alpha would lie beyond 8" in steep.sentence


def test_draws_without_a_gain_are_counted_and_make_it_flat() -> None:
    _, points = family([0.5, 0.6, 0.7], seeds=1)
    columns = [np.full((100, 1), p.gauc) for p in points]
    for column in columns:
        column[:10] = 0.4
    found = fit_family(points, (), Draws(tuple(columns), np.full((100, 1), 0.5)), FLOPS)
    assert found.without == 0.1
    assert found.verdict == "flat"
    assert "10.0% of the draws have no gain, hence no alpha; flat" in found.sentence
    assert "since many draws have no gain at all" in found.sentence


def test_runs_on_other_impressions_are_refused() -> None:
    named, _ = family([0.5, 0.6, 0.7], seeds=1)
    other = predictions(1.0, 3)
    with pytest.raises(DataError, match=r"runs/b: expected the .* impressions of 0-0"):
        draw(named, {"runs/b": replace(other, impression=other.impression + 1)}, draws=5)
