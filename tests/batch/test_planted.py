"""Settings of a synthetic log, and the world they make. The effects themselves are tested in tests/prepare."""

from __future__ import annotations

import numpy as np
import pytest

from ctr_rec.batch.planted import (
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


def test_a_favourite_group_moves_its_items_alone() -> None:
    config = SyntheticConfig(users=500, items=12, groups=4, spread=0.0, effects=Effects(profile=2.0, popularity=1.0))
    world = make_world(config)
    assert np.bincount(world.favourite, minlength=4).min() > 90
    item = np.tile(np.arange(12), (2, 1))
    history = History(config, world, np.array([7, 3]))
    logit = history.logit(item, np.array([100, 100]), np.zeros(2, np.int64)) - config.bias - world.popularity
    favoured = world.group[item] == world.favourite[[7, 3], None]
    np.testing.assert_allclose(logit, np.where(favoured, 2 * 0.75, -2 * 0.25))


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
