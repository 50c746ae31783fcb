"""Requests made in memory are batches like any other."""

from __future__ import annotations

import torch

from ctr_rec.bench.est_requests import LIFELONG, RECENT, Requests, make_requests


def test_users_are_alike_and_first_candidates_stay() -> None:
    one, _ = make_requests(Requests(1, 3, 5, 20, 8))
    many, embedded = make_requests(Requests(4, 1, 5, 20, 8))
    for name, length in ((RECENT, 8), (LIFELONG, 20)):
        assert one.histories[name].lengths().tolist() == [length] * 3
        assert many.histories[name].lengths().tolist() == [length] * 4
        last = many.histories[name].values[many.histories[name].offsets[1:] - 1]
        assert last.tolist() == [19, 39, 59, 79]
    assert one.impression_item.tolist() == [20, 21, 22]
    assert many.impression_item.tolist() == [20] * 4
    assert torch.equal(one.items.vectors["content"][:21], many.items.vectors["content"])
    assert all((x == x[0]).all() for x in embedded.users.values())
    assert len(embedded.users) == 2
    assert len(embedded.items) == 3


def test_a_user_with_fewer_events_than_the_channel_holds() -> None:
    batch, _ = make_requests(Requests(2, 1, 2, 5, 8))
    assert batch.histories[RECENT].values.tolist() == batch.histories[LIFELONG].values.tolist() == list(range(10))
