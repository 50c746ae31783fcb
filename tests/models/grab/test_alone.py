"""Packed scores are those of each impression alone with its own full history, in the precision of training."""

from __future__ import annotations

import pytest

from ctr_rec.models.grab.config import GRABSettings
from tests.models.streams import Log, Scorer, random_log
from tests.models.test_no_leak import CASES

GRAB = [name for name, config in CASES.items() if isinstance(config, GRABSettings)]


def _long_log(name: str) -> Log:
    """Users with more events than any layer's window reaches back, where there is a window below 50."""
    log = random_log(seed=6, delay=2, num_users=3, num_events=30)
    config = CASES[name]
    assert isinstance(config, GRABSettings)
    longest = max(len(log.stream(user)) for user in range(log.num_users))
    assert min(channel.window for channel in config.channels.values()) < longest
    return log


def test_every_setting_of_grab_is_here() -> None:
    assert len(GRAB) >= 4


@pytest.mark.parametrize("name", GRAB)
def test_packed_equals_alone_in_float32(name: str) -> None:
    """The same to 1e-12 in float64 is in test_no_leak.py."""
    scorer, log = Scorer(CASES[name]).float(), _long_log(name)
    packed = scorer.score(log)
    assert len(packed) > 20
    assert max(packed.values()) - min(packed.values()) > 1e-2
    for impression in log.impressions:
        alone = scorer.score(log.only(impression))[impression.key]
        assert alone == pytest.approx(packed[impression.key], rel=0, abs=1e-5), impression
