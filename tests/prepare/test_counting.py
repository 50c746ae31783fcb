"""Counters of a whole log do not depend on how it is partitioned."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from tests.prepare.raws import build, random_raw


def counters(log: Path) -> dict[str, list[tuple]]:
    found = {}
    for events, users in zip(sorted((log / "events").iterdir()), sorted((log / "users").iterdir()), strict=True):
        names = ["item_click_count", "item_click_rate", "user_buy_count", "user_buy_rate"]
        rows = pq.read_table(events, columns=names).to_pylist()
        for user, row in zip(pq.read_table(users)["user_id"].to_pylist(), rows, strict=True):
            found[user] = list(zip(*(row[n] for n in names), strict=True))
    return found


def test_partitioned_counters_equal_those_of_one_partition(tmp_path: Path) -> None:
    one = build(random_raw(7), tmp_path / "one")
    many = build(random_raw(7), tmp_path / "many", partition_events=120)
    assert len({g.file for g in many.row_groups}) > 4
    assert counters(tmp_path / "one") == counters(tmp_path / "many")
    assert any(count > 0 for rows in counters(tmp_path / "one").values() for count, *_ in rows)
    assert (
        one.numbers["item_click_count"].mean == many.numbers["item_click_count"].mean
        or abs(one.numbers["item_click_count"].mean - many.numbers["item_click_count"].mean) < 1e-12
    )
