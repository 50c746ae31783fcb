"""The speed of our loop is that of a whole run."""

from __future__ import annotations

from ctr_rec.bench.din_loop import impressions_per_second
from ctr_rec.sharding.group import open_group
from tests.bench.conftest import Prepared


def test_speed_is_what_the_trainer_says_of_all_steps(prepared: Prepared) -> None:
    run, _, _ = prepared
    with open_group("cpu") as group:
        first, second = (impressions_per_second(run, group) for _ in range(2))
    assert 0 < first < 1e7
    assert 0 < second < 1e7
