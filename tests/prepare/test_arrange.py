"""Requests, request times and the order of events; nothing of the file's order or labels shows."""

from __future__ import annotations

import polars as pl

from ctr_rec.prepare.arrange import arrange
from ctr_rec.schema.log import Split

SPLIT = Split(train_end=10, valid_end=20)


def frame(rows: list[tuple]) -> pl.DataFrame:
    names = ["_row", "user_id", "time", "item_id", "request"][: len(rows[0])]
    return pl.DataFrame(rows, schema=names, orient="row")


def test_equal_times_of_one_user_are_one_request() -> None:
    events = arrange(frame([(1, 2, 5, 9), (2, 2, 5, 3), (3, 1, 5, 4), (4, 2, 6, 1)]), SPLIT)
    assert events.select("user_id", "time", "item_id", "request").rows() == [
        (1, 5, 4, 0),
        (2, 5, 3, 1),
        (2, 5, 9, 1),
        (2, 6, 1, 2),
    ]
    assert events["request_time"].to_list() == events["time"].to_list()


def test_a_request_begins_with_its_earliest_event_and_requests_may_interleave() -> None:
    rows = [(1, 1, 8, 1, "a"), (2, 1, 4, 2, "b"), (3, 1, 3, 3, "a"), (4, 1, 9, 4, "b")]
    events = arrange(frame(rows), SPLIT)
    assert events.select("time", "request", "request_time").rows() == [(3, 0, 3), (4, 1, 4), (8, 0, 3), (9, 1, 4)]


def test_a_missing_request_id_falls_back_to_equal_times() -> None:
    rows = [(1, 1, 4, 1, None), (2, 1, 4, 2, None), (3, 1, 4, 3, "a"), (4, 1, 5, 4, None)]
    events = arrange(frame(rows), SPLIT)
    requests = dict(zip(events["item_id"], events["request"], strict=True))
    assert requests[1] == requests[2]
    assert len({requests[1], requests[3], requests[4]}) == 3


def test_requests_of_one_time_go_by_their_smallest_item_not_by_name() -> None:
    events = arrange(frame([(1, 1, 4, 7, "a"), (2, 1, 4, 2, "b")]), SPLIT)
    assert events["item_id"].to_list() == [2, 7]


def test_file_order_does_not_matter() -> None:
    rows = [(k, k % 3, k % 4, k, f"r{k % 5}") for k in range(40)]
    one = arrange(frame(rows), SPLIT)
    two = arrange(frame(rows[::-1]), SPLIT)
    assert one.equals(two)


def test_full_duplicates_do_not_keep_the_order_of_the_file() -> None:
    rows = [(k, 1, 1, 1) for k in range(64)]
    found = arrange(frame(rows), SPLIT)["_row"].to_list()
    assert sorted(found) == list(range(64))
    assert found != sorted(found)
    upper = [r >= 32 for r in found[:32]]
    assert 8 < sum(upper) < 24, "a file sorted by label does not show in the order"


def test_test_end_cuts_by_request_time() -> None:
    split = Split(train_end=1, valid_end=2, test_end=4)
    rows = [(1, 1, 4, 1, "a"), (2, 1, 6, 2, "a"), (3, 1, 5, 3, "b")]
    assert arrange(frame(rows), split)["item_id"].to_list() == [1, 2]


def test_an_empty_partition_stays_empty() -> None:
    empty = frame([(1, 1, 4, 1, "a")]).head(0)
    assert arrange(empty, SPLIT).height == 0
