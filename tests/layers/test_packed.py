"""Queries in an order that shares keys, and the first event since a time, against a plain loop."""

from __future__ import annotations

import torch

from ctr_rec.layers.packed import by_visible_end, first_since, whole_seconds
from ctr_rec.models.tower import Filling
from tests.models.streams import make_batch, random_log


def test_queries_come_by_user_then_by_what_they_see() -> None:
    batch = make_batch(random_log(seed=2), Filling.PACKED)
    order = by_visible_end(batch)
    keys = [(int(batch.impression_user[n]), int(batch.visible_end[n])) for n in order]
    assert sorted(order.tolist()) == list(range(batch.num_impressions))
    assert keys == sorted(keys)


def test_first_since_is_what_a_loop_finds() -> None:
    batch = make_batch(random_log(seed=6, delay=3), Filling.PACKED)
    offsets, known_at = batch.event_offsets.tolist(), batch.event_known_at.tolist()
    users, times, expected = [], [], []
    for user in range(batch.num_users):
        mine = known_at[offsets[user] : offsets[user + 1]]
        for time in [-5, 0, 10_000, *mine, *(t + 1 for t in mine)]:
            users.append(user)
            times.append(time)
            expected.append(offsets[user] + sum(t < time for t in mine))
    found = first_since(batch, torch.tensor(users), torch.tensor(times))
    assert found.tolist() == expected


def test_first_since_without_events_and_without_queries() -> None:
    log = random_log(seed=6)
    none = make_batch(log.__class__((), log.impressions[:2], log.num_users), Filling.PACKED)
    assert first_since(none, torch.tensor([0, 2]), torch.tensor([5, 9])).tolist() == [0, 0]
    empty = torch.zeros(0, dtype=torch.int64)
    assert first_since(make_batch(log, Filling.PACKED), empty, empty).shape == (0,)


def test_seconds_are_whole_and_round_down() -> None:
    assert whole_seconds(torch.tensor([1999, 2000, -1]), 1000).tolist() == [1, 2, -1]
