"""Batches from a log by user: streams cut from the old end, and candidates with the context that they are given."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ctr_rec.errors import DataError
from ctr_rec.serve.log_users import LogUsers
from tests.serve.requests import LENGTHS, data_config, make_users, write

CONTEXT: dict[str, Any] = {"tab": 1, "topics": [2, 2, 5], "item_like_count": 3.0, "item_like_rate": 0.25}


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> LogUsers:
    log = tmp_path_factory.mktemp("log")
    return LogUsers(data_config(log), write(log, make_users(), delay=50))


def _times(user: int) -> list[int]:
    return sorted(e["time"] for e in make_users()[user]["events"])


def test_the_newest_events_of_each_user_in_the_order_asked_for(users: LogUsers) -> None:
    batch = users.histories([3, 2, 0, 1], newest=5)
    assert batch.user.tolist() == [3, 2, 0, 1]
    assert batch.event_offsets.tolist() == [0, 5, 5, 10, 11]
    assert batch.event_time.tolist() == _times(3)[-5:] + _times(0)[-5:] + _times(1)
    assert torch.equal(batch.event_known_at, batch.event_time + 50)
    assert batch.num_impressions == 0
    assert [users.num_events(user) for user in range(5)] == list(LENGTHS)


def test_before_a_time_only_what_was_known_by_then(users: LogUsers) -> None:
    batch = users.histories([3, 0], newest=4, before=500)
    known = [[t for t in _times(user) if t + 50 < 500][-4:] for user in (3, 0)]
    assert batch.event_time.tolist() == known[0] + known[1]
    assert users.histories([3], newest=4, before=0).num_events == 0


def test_candidates_carry_items_profile_and_context_as_the_reader_would_give_them(users: LogUsers) -> None:
    batch = users.candidates(4, [7, 0, 7], 321, CONTEXT)
    assert batch.item[batch.impression_item].tolist() == [7, 0, 7]
    assert batch.user.tolist() == [4]
    assert batch.users.numbers["age"].tolist() == [(4 - 0.5) / 2]
    assert batch.impression_time.tolist() == [321] * 3
    assert batch.impressions.numbers["item_like_rate"].tolist() == [(0.25 - 0.5) / 2] * 3
    expected = (torch.log1p(torch.tensor(3.0)) - 0.5) / 2
    assert batch.impressions.numbers["item_like_count"].tolist() == pytest.approx([expected.item()] * 3)
    tab = batch.impressions.ids["tab"]
    assert batch.tables["tab"][tab.index].tolist() == [1, 1, 1]
    topics = batch.impressions.ids["topics"]
    assert batch.tables["genre"][topics.index].tolist() == [2, 2, 5] * 3
    assert topics.offsets is not None
    assert topics.offsets.tolist() == [0, 3, 6, 9]
    assert batch.num_events == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tab": 5}, r"context 'tab': expected a row of table 'tab', 0 to 4, got 5"),
        ({"topics": [[1], [2], [3]]}, r"context 'topics': expected one list of rows or 2, got 3"),
        ({"topics": [-1]}, r"context 'topics': expected a row of table 'genre', 0 to 6, got -1"),
        ({"item_like_count": -1}, r"context 'item_like_count': expected a number above -1 \(log1p\), got -1"),
        ({"item_like_rate": float("nan")}, r"context 'item_like_rate': expected a finite number, got nan"),
        ({"item_like_rate": [1, 2, 3]}, r"context 'item_like_rate': expected one value or 2 \(float32\), got \[1"),
        ({"dwell": 1}, r"context: expected tab, topics, item_like_count, item_like_rate, .* got .*dwell"),
    ],
)
def test_a_context_that_does_not_fit_is_refused(users: LogUsers, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        users.candidates(0, [1, 2], 10, {**CONTEXT, **changed})


def test_a_missing_input_and_unknown_users_and_items_are_refused(users: LogUsers) -> None:
    with pytest.raises(DataError, match=r"context: expected tab, .* got nothing"):
        users.candidates(0, [1], 10, {})
    with pytest.raises(DataError, match="candidates: expected item numbers from 0 to 38, got 39"):
        users.candidates(0, [1, 39], 10, CONTEXT)
    with pytest.raises(DataError, match="user 9: expected the number of a user in"):
        users.histories([9], 3)
