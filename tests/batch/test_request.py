"""A request cut out of a batch: every copy of the impression scores as the impression does, and nothing else is left.

That towers score it alike is in tests/models/test_cost.py.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from ctr_rec.batch.request import request_batch
from ctr_rec.models.tower import Filling
from tests.models.streams import CHANNELS, Log, make_batch, random_log


def busiest(log: Log) -> int:
    """The impression that sees the most."""
    seen = [sum(not log.hidden(e, i) for e in log.events) for i in log.impressions]
    return max(range(len(seen)), key=seen.__getitem__)


def test_packed_it_holds_the_visible_prefix_or_its_newest_events() -> None:
    log = random_log(2, delay=1)
    batch = make_batch(log, Filling.PACKED)
    n = busiest(log)
    impression = log.impressions[n]
    expected = [e for e in log.stream(impression.user) if not log.hidden(e, impression)]
    assert len(expected) > 4
    for reach, left in ((0, expected), (4, expected[-4:]), (99, expected)):
        found = request_batch(batch, n, candidates=3, reach=reach)
        assert found.event_time.tolist() == [e.time for e in left]
        assert found.item[found.event_item].tolist() == [e.item for e in left]
        assert found.events.numbers["dwell"].tolist() == [e.dwell for e in left]
        assert found.event_end.tolist() == [sum(k.time <= e.time for k in left) for e in left]
        assert found.visible_end.tolist() == [len(left)] * 3
        assert found.event_offsets.tolist() == [0, len(left)]
        assert found.user.tolist() == [impression.user]
        assert found.users.numbers["age"].tolist() == [0.1 * impression.user]


@pytest.mark.parametrize("candidates", [1, 5])
def test_pointwise_it_holds_what_its_channels_list(candidates: int) -> None:
    log = random_log(3)
    batch = make_batch(log, Filling.POINTWISE)
    n = busiest(log)
    found = request_batch(batch, n, candidates)
    assert (found.num_users, found.num_impressions) == (1, candidates)
    for name in CHANNELS:
        whole, part = batch.histories[name], found.histories[name]
        own = batch.event_time[whole.values[whole.offsets[n] : whole.offsets[n + 1]]].tolist()
        for start, end in pairwise(part.offsets.tolist()):
            assert found.event_time[part.values[start:end]].tolist() == own
    used = torch.cat([history.values for history in found.histories.values()]).unique()
    assert used.tolist() == list(range(found.num_events))


def test_every_candidate_has_an_item_row_of_its_own() -> None:
    log = random_log(4)
    n = busiest(log)
    batch = make_batch(log, Filling.PACKED)
    found = request_batch(batch, n, candidates=60)
    rows = found.impression_item
    assert len(rows.unique()) == 60
    assert set(found.item[rows].tolist()) == {log.impressions[n].item}
    genres = found.items.ids["genres"]
    assert genres.offsets is not None
    expected = [g for g in range(5) if (log.impressions[n].item >> g) & 1]
    for row in rows.tolist():
        assert genres.index[genres.offsets[row] : genres.offsets[row + 1]].tolist() == expected


def test_an_impression_that_sees_nothing_is_a_request_without_events() -> None:
    log = random_log(5)
    n = next(k for k, i in enumerate(log.impressions) if all(log.hidden(e, i) for e in log.events))
    for filling in Filling:
        found = request_batch(make_batch(log, filling), n, candidates=2)
        assert found.num_events == 0
        assert found.event_offsets.tolist() == [0, 0]
        assert found.visible_end.tolist() == [0, 0]
