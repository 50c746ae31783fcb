"""What a period keeps, against the rule spelt out event by event."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from ctr_rec.prepare.cut import kept_in_period
from ctr_rec.schema.log import Split


def naive(rows: list[tuple[int, int, int]], split: Split, context: int, delay: int) -> list[bool]:
    """rows: (user, time, request time), sorted."""
    assert split.train_start is not None
    kept = [False] * len(rows)
    for user in {u for u, _, _ in rows}:
        mine = [k for k, row in enumerate(rows) if row[0] == user]
        fresh = [k for k in mine if rows[k][2] > split.train_start]
        if not fresh:
            continue
        begins = min(rows[k][2] for k in fresh)
        old = [k for k in mine if k not in fresh]
        seen = [k for k in old if rows[k][1] + delay < begins]
        for k in [*fresh, *(k for k in old if k not in seen), *seen[-context:]]:
            kept[k] = True
    return kept


@pytest.mark.parametrize("delay", [0, 15])
@pytest.mark.parametrize("context", [1, 3, 100])
def test_the_tail_that_impressions_need(delay: int, context: int) -> None:
    r = np.random.default_rng(context + delay)
    rows = []
    for user in range(12):
        time = np.sort(r.integers(0, 100, r.integers(1, 15)))
        # Requests that begin earlier than some of their events, also across the period's beginning.
        rows += [(user, int(t), int(max(0, t - r.integers(0, 6)))) for t in time]
    events = pl.DataFrame(rows, schema=["user_id", "time", "request_time"], orient="row")
    split = Split(train_start=60, train_end=99)
    assert kept_in_period(events, split, context, delay).to_list() == naive(rows, split, context, delay)


def test_a_user_without_an_event_in_the_period_carries_nothing() -> None:
    events = pl.DataFrame({"user_id": [1, 1, 2], "time": [1, 2, 1], "request_time": [1, 2, 1]})
    assert kept_in_period(events, Split(train_start=1, train_end=5), 9, 0).to_list() == [True, True, False]


def test_what_is_known_late_is_kept_besides() -> None:
    """The first request, at 20, sees what is known before it: with a delay of 15 the events at 1 to 4."""
    time = [1, 2, 3, 9, 20]
    events = pl.DataFrame({"user_id": [1] * 5, "time": time, "request_time": time})
    period = Split(train_start=10, train_end=30)
    assert kept_in_period(events, period, context=2, action_delay=15).to_list() == [False, True, True, True, True]
    assert kept_in_period(events, period, context=2, action_delay=0).to_list() == [False, False, True, True, True]
