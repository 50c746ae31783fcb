"""A prepared log that was changed is found out: each fault by file, column and row."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctr_rec.errors import DataError
from ctr_rec.prepare.check import check
from tests.prepare.raws import build, random_raw

PART = "events/part-00000.parquet"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    build(random_raw(), tmp_path / "log", row_group_events=10**6)
    return tmp_path / "log"


def change(log: Path, file: str, column: str, edit: Callable[[list[Any]], None]) -> None:
    """Rewrites one column of a file, keeping its type."""
    table = pq.read_table(log / file)
    values = table.column(column).to_pylist()
    edit(values)
    index = table.column_names.index(column)
    changed = pa.array(values, table.schema.field(column).type)
    table = table.set_column(index, table.schema.field(column), changed)
    pq.write_table(table, log / file, row_group_size=10**6)


def put(row: int, position: int, value: Any) -> Callable[[list[Any]], None]:
    def edit(values: list[Any]) -> None:
        values[row][position] = value

    return edit


def turn(row: int) -> Callable[[list[Any]], None]:
    def edit(values: list[Any]) -> None:
        values[row] = values[row][::-1]

    return edit


def set_row(row: int, value: Any) -> Callable[[list[Any]], None]:
    def edit(values: list[Any]) -> None:
        values[row] = value

    return edit


def test_a_whole_log_passes(log: Path) -> None:
    assert check(str(log)).users == 23


@pytest.mark.parametrize(
    ("file", "column", "edit", "words"),
    [
        (PART, "time", turn(2), ["row 2", "'time'", "sorted by (time, request, item)"]),
        (PART, "request_time", put(1, 0, 10**6), ["row 1", "'request_time'", "no later than the event's own"]),
        (PART, "request_time", put(1, 5, -5), ["row 1", "'request_time'", "earliest time of its request"]),
        (PART, "item", put(3, 0, 99), ["row 3", "'item'", "a row of items/"]),
        (PART, "item", put(3, 0, -1), ["row 3", "'item'", "a row of items/"]),
        (PART, "action", put(0, 0, 3), ["row 0", "'action'", "below 3"]),
        (PART, "label_click", put(0, 0, 5), ["row 0", "'label_click'", "0 or 1 for an impression"]),
        (PART, "page", put(4, 2, 5), ["row 4", "'page'", "table 'page', 0 to 4"]),
        (PART, "words", put(4, 2, [12]), ["'words'", "table 'word', 0 to 11"]),
        (PART, "dwell", put(4, 2, float("nan")), ["row 4", "'dwell'", "finite"]),
        (PART, "item_click_rate", put(0, 0, 1.5), ["row 0", "'item_click_rate'", "between 0 and 1"]),
        (PART, "item_click_count", put(0, 0, -1.0), ["row 0", "'item_click_count'", "a count"]),
        (PART, "dwell", set_row(0, [1.0]), ["'dwell'", "as many values per user as column 'time'"]),
        (PART, "user", set_row(1, 7), ["'user'", "consecutive user numbers"]),
        (PART, "dwell", put(0, 0, 0.123), ["fingerprint", "changed after it was prepared"]),
        ("users/part-00000.parquet", "user", set_row(1, 7), ["users of", "consecutive user numbers"]),
        ("users/part-00000.parquet", "country", set_row(1, 9), ["users of", "'country'", "table 'country'"]),
        ("items/items.parquet", "thing", set_row(1, 99), ["items.parquet", "'thing'", "table 'item'"]),
        ("items/items.parquet", "price", set_row(1, float("inf")), ["items.parquet", "'price'", "finite"]),
        ("vocabulary/page.parquet", "row", set_row(1, 9), ["page.parquet", "'row'", "0 to 4"]),
        ("vocabulary/page.parquet", "count", set_row(1, 10**6), ["fingerprint"]),
        ("vocabulary/page.parquet", "hash", set_row(1, 10**6), ["page.parquet", "'hash'", "the stated hash of the id"]),
    ],
)
def test_each_changed_value_is_found(log: Path, file: str, column: str, edit: Any, words: list[str]) -> None:
    change(log, file, column, edit)
    with pytest.raises(DataError) as caught:
        check(log)
    for word in words:
        assert word in str(caught.value)


def test_ties_in_time_go_by_request_and_item(log: Path) -> None:
    times = pq.read_table(log / PART, columns=["time", "item"]).to_pylist()
    row, at = next(
        (row, k)
        for row, user in enumerate(times)
        for k in range(1, len(user["time"]))
        if user["time"][k] == user["time"][k - 1] and user["item"][k] != user["item"][k - 1]
    )

    def swap(values: list[Any]) -> None:
        values[row][at - 1], values[row][at] = values[row][at], values[row][at - 1]

    for column in ("item", "request", "request_time"):
        change(log, PART, column, swap)
    with pytest.raises(DataError, match=r"sorted by \(time, request, item\)") as caught:
        check(log)
    assert f"row {row}:" in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (("users",), "expected number of users 24"),
        (("events",), "expected number of events 901"),
        (("items",), "expected number of items 18"),
        (("impressions", 1), "expected impressions of train / valid / test"),
        (("positives", "buy", 2), "expected positives of label 'buy'"),
        (("row_groups", 0, "impressions", 0), "expected impressions per split"),
        (("row_groups", 0, "first_event"), "expected first event 1"),
        (("tables", "page", "ids"), "expected number of ids 5"),
        (("split", "train_end"), "expected impressions per split"),
    ],
)
def test_a_manifest_that_counts_otherwise_is_found(log: Path, keys: tuple, words: str) -> None:
    manifest = json.loads((log / "manifest.json").read_text())
    node = manifest
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] += 100 if keys == ("split", "train_end") else 1
    (log / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="prepare the log again") as caught:
        check(log)
    assert words in str(caught.value)


@pytest.mark.parametrize("file", [PART, "users/part-00000.parquet", "items/items.parquet"])
def test_a_truncated_file_is_named(log: Path, file: str) -> None:
    whole = (log / file).read_bytes()
    (log / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=f"{file.split('/')[1]} is no whole Parquet file"):
        check(log)


def test_a_missing_file_and_column_are_named(log: Path) -> None:
    table = pq.read_table(log / PART)
    pq.write_table(table.drop_columns(["page"]), log / PART, row_group_size=10**6)
    with pytest.raises(DataError, match="column 'page' is missing"):
        check(log)
    (log / PART).unlink()
    with pytest.raises(DataError, match=r"part-00000\.parquet: no such file"):
        check(log)
    (log / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"is not a prepared log: it has no manifest\.json"):
        check(log)


def test_more_row_groups_than_the_manifest_knows_are_found(log: Path) -> None:
    pq.write_table(pq.read_table(log / PART), log / PART, row_group_size=5)
    with pytest.raises(DataError, match="expected number of row groups 1 as the manifest says, got 5"):
        check(log)
