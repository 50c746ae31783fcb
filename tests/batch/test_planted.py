"""Settings of a synthetic log, and the world they make. The effects themselves are tested in tests/prepare."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ctr_rec.batch.planted import (
    CLICK,
    LIKE,
    SEARCH,
    SKIP,
    Effects,
    History,
    SyntheticConfig,
    make_world,
    planted_traces,
)
from ctr_rec.errors import ConfigError


def test_the_world_is_scaled_as_stated() -> None:
    world = make_world(SyntheticConfig(items=600, groups=5, spread=0.0))
    assert np.bincount(world.group).tolist() == [120] * 5
    assert np.array_equal(world.taste, np.eye(5)[world.group])
    dots = (world.content @ world.content.T)[np.triu_indices(600, 1)]
    assert abs(dots.mean()) < 0.02
    assert abs(dots.std() - 1) < 0.05


def test_leaning_moves_nothing_else() -> None:
    """Turned round, a user's leaning turns the sign of its effect, and the other effects stay."""
    config = SyntheticConfig(users=500, items=12, effects=Effects(profile=2.0, popularity=1.0))
    world = make_world(config)
    turned = replace(world, leaning=-world.leaning)
    assert abs(world.leaning.mean() - 0.5) < 0.1
    item, now = np.tile(np.arange(12), (2, 1)), np.array([100, 100])
    logit = []
    for one in (world, turned):
        history = History(config, one, np.array([7, 3]))
        history.add(
            item[:, :4],
            np.tile([SKIP, CLICK, SEARCH, LIKE], (2, 1)),
            np.tile([1, 2, 3, 4], (2, 1)),
            np.zeros((2, 4), np.int64),
        )
        history.reach(now)
        logit.append(history.logit(item, now, np.zeros(2, np.int64)) - config.bias - world.popularity)
    np.testing.assert_allclose(logit[0], -logit[1], atol=1e-12)
    assert np.abs(logit[0]).max() > 0.1


def test_an_effect_that_is_off_costs_nothing() -> None:
    config = SyntheticConfig(effects=Effects(drift=1.0, popularity=1.0))
    assert len(planted_traces(config, make_world(config))) == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"items": 3}, "items >= candidates"),
        ({"interleave": 0.5}, "dwell >= 2, got 0"),
        ({"onboarding": 0}, "onboarding >= 1, got 0"),
        ({"requests_per_user": 5000}, "do not fit into 20 days"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, float], words: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=words):
        SyntheticConfig(**settings)  # pyright: ignore[reportArgumentType]
