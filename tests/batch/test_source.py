"""The door: each kind of damage is refused with the column, the file and the row."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctr_rec.batch.columns import Column, Ragged
from ctr_rec.batch.source import Source, in_split, join_slices
from ctr_rec.errors import DataError, SchemaError
from ctr_rec.schema.log import Split
from ctr_rec.schema.manifest import SPLITS, LogManifest
from ctr_rec.schema.table import EmbeddingSettings, SparseSpec, sparse_spec
from tests.batch.logs import event_fields, item_fields, random_users, schema, user_fields, write_log

EVENTS, USERS, ITEMS = "events/part-00000.parquet", "users/part-00000.parquet", "items/items.parquet"
FIELDS = {EVENTS: event_fields(schema()), USERS: user_fields(schema()), ITEMS: item_fields(schema())}


class Log:
    """A log that a test may damage."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: LogManifest = write_log(folder, random_users(0))
        self.spec: SparseSpec = sparse_spec(self.manifest, EmbeddingSettings(dim=4))

    def damage(self, file: str, change: Callable[[list[dict[str, Any]]], None]) -> None:
        """Rewrites a file after a change of its rows."""
        path = self.folder / file
        size = pq.ParquetFile(path).metadata.row_group(0).num_rows
        rows = pq.read_table(path).to_pylist()
        change(rows)
        pq.write_table(pa.Table.from_pylist(rows, pa.schema(FIELDS[file])), path, row_group_size=size)

    def drop(self, file: str, column: str) -> None:
        path = self.folder / file
        size = pq.ParquetFile(path).metadata.row_group(0).num_rows
        pq.write_table(pq.read_table(path).drop_columns([column]), path, row_group_size=size)

    def source(self, split: str = "train") -> Source:
        return Source(str(self.folder), self.manifest, self.spec, "liked", split)

    def read(self) -> None:
        source = self.source()
        source.items()
        source.read(self.manifest.row_groups)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def put(column: str, row: int, position: int, value: Any) -> Callable[[list[dict[str, Any]]], None]:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[row][column][position] = value

    return change


def put_row(column: str, row: int, value: Any) -> Callable[[list[dict[str, Any]]], None]:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[row][column] = value

    return change


# File row 4 is row 1 of row group 1: row groups hold three users.
IN_EVENT = [
    (put("tab", 4, 2, 5), r"column 'tab' .*row group 1, row 1, position 2 .* row of table 'tab', 0 to 4, got 5"),
    (put("tab", 4, 2, -1), r"column 'tab' .*row group 1, row 1, position 2 .* 0 to 4, got -1"),
    (put("topics", 4, 0, [1, 9]), r"column 'topics' .*row group 1, row 1, .* row of table 'genre', 0 to 6, got 9"),
    (put("dwell", 4, 3, float("nan")), r"column 'dwell' .*row group 1, row 1, position 3 .*finite number, got nan"),
    (put("item", 4, 1, 39), r"column 'item' .*row group 1, row 1, position 1 .* an item number, 0 to 38, got 39"),
    (put("action", 4, 1, 3), r"column 'action' .*row group 1, row 1, position 1 .* 0 to 2, got 3"),
    (put("time", 4, 1, 999_999), r"column 'time' .*row group 1, row 1, position 2 .*times that do not go back"),
    (put("request_time", 4, 0, 999_999), r"column 'request_time' .*row 1, position 0 .*at most its time, got 999999"),
    (
        put_row("action", 4, [1]),
        r"column 'action' .*row group 1, row 1: expected \d+ values as in column 'time', got 1",
    ),
    (put_row("action", 4, None), r"column 'action' .*row group 1, row 1: expected a value, got null"),
    (
        put_row("user", 4, 77),
        r"users/part-00000.parquet must have the same users .* which differs at .*row group 1, row 1",
    ),
    (put_row("time", 4, []), r"the manifest says 3 users and \d+ events, the file has 3 and \d+"),
]


@pytest.mark.parametrize(("change", "message"), IN_EVENT)
def test_damaged_events(log: Log, change: Callable[[list[dict[str, Any]]], None], message: str) -> None:
    log.read()
    log.damage(EVENTS, change)
    with pytest.raises(DataError, match=message):
        log.read()


def test_damaged_label_and_counter(log: Log) -> None:
    group = log.manifest.row_groups[1]
    first = int(log.source().read([group]).own[0])
    counts = [len(r["time"]) for r in pq.ParquetFile(log.folder / EVENTS).read_row_group(1).to_pylist()]
    row = int(np.searchsorted(np.cumsum(counts), first, side="right"))
    at = first - sum(counts[:row])
    log.damage(EVENTS, put("item_like_rate", 3 + row, at, float("inf")))
    with pytest.raises(DataError, match=rf"'item_like_rate' .*row {row}, position {at} .*a finite number, got inf"):
        log.read()
    log.damage(EVENTS, put("item_like_rate", 3 + row, at, 0.5))
    log.damage(EVENTS, put("item_like_count", 3 + row, at, -1.0))
    with pytest.raises(DataError, match=r"'item_like_count' .*a number above -1 \(log1p\), got -1"):
        log.read()
    log.damage(EVENTS, put("item_like_count", 3 + row, at, 0.0))
    log.damage(EVENTS, put("label_liked", 3 + row, at, 2))
    with pytest.raises(DataError, match=rf"'label_liked' .*row {row}, position {at} .*0 or 1 for an impression, got 2"):
        log.read()


def test_damaged_users_and_items(log: Log) -> None:
    log.damage(USERS, put_row("gender", 1, 3))
    with pytest.raises(DataError, match=r"'gender' of .*users/part-00000.parquet, row group 0, row 1.* 0 to 2, got 3"):
        log.read()
    log.damage(USERS, put_row("gender", 1, 1))
    log.damage(ITEMS, put_row("price", 7, -1.0))
    with pytest.raises(DataError, match=r"column 'price' of .*items.parquet, row 7: expected a number above -1"):
        log.read()
    log.damage(ITEMS, put_row("price", 7, 0.0))
    log.damage(ITEMS, put("content", 7, 1, float("nan")))
    with pytest.raises(DataError, match=r"column 'content' of .*items.parquet, row 7: expected finite numbers"):
        log.read()
    log.damage(ITEMS, put("content", 7, 1, 0.0))
    log.damage(ITEMS, lambda rows: rows.pop())
    with pytest.raises(DataError, match=r"items.parquet: the manifest says 39 items, the file has 38"):
        log.read()


@pytest.mark.parametrize("file", [EVENTS, USERS, ITEMS])
def test_missing_column(log: Log, file: str) -> None:
    column = {EVENTS: "dwell", USERS: "likes", ITEMS: "price"}[file]
    log.drop(file, column)
    with pytest.raises(DataError, match=rf"{file} has no column '{column}'; it has .*run `ctr-rec prepare` again"):
        log.read()


@pytest.mark.parametrize("file", [EVENTS, USERS, ITEMS])
def test_missing_truncated_and_empty_file(log: Log, file: str) -> None:
    path = log.folder / file
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=rf"{file}: expected a complete Parquet file, got {len(whole) // 2} bytes"):
        log.read()
    path.write_bytes(b"")
    with pytest.raises(DataError, match=rf"{file}: expected a complete Parquet file, got 0 bytes"):
        log.read()
    path.unlink()
    with pytest.raises(DataError, match=rf"{file}: no such file"):
        log.read()


def test_wrong_counts(log: Log) -> None:
    group = log.manifest.row_groups[0]
    wrong = group.model_copy(update={"impressions": (group.impressions[0] + 1, *group.impressions[1:])})
    with pytest.raises(
        DataError, match=r"row group 0: the manifest says \d+ impressions in split 'train', the file has"
    ):
        log.source().read([wrong])
    with pytest.raises(DataError, match=r"the manifest names row group 9, the file has 2"):
        log.source().read([group.model_copy(update={"index": 9})])


def test_a_number_without_statistics(log: Log) -> None:
    log.manifest = log.manifest.model_copy(update={"numbers": {}})
    with pytest.raises(DataError, match="has no mean and deviation of 'price'"):
        log.read()


def test_another_schema_than_the_models(log: Log) -> None:
    changed = schema().model_dump()
    changed["features"][2]["log1p"] = True
    other = log.manifest.model_copy(update={"data_schema": type(schema()).model_validate(changed)})
    with pytest.raises(
        SchemaError, match=r"feature 'age': the model was made for .*'log1p': False.* has .*'log1p': True"
    ):
        Source(str(log.folder), other, log.spec, "liked", "train")
    fewer = log.manifest.model_copy(update={"data_schema": schema().model_copy(update={"actions": ("none", "like")})})
    with pytest.raises(SchemaError, match=r"the model knows 3 actions, the log 'small' has 2"):
        Source(str(log.folder), fewer, log.spec, "liked", "train")


def test_row_groups_lie_below_each_other_file_by_file(log: Log) -> None:
    groups = [log.manifest.row_groups[i] for i in (1, 2, 0, 3)]
    files = [g.file for g in groups]
    assert files[0] == files[2] != files[1] == files[3]
    source = log.source()
    slices, parts = source.read(groups), [source.read([groups[i]]) for i in (0, 2, 1, 3)]
    assert np.diff(slices.offsets).tolist() == [n for p in parts for n in np.diff(p.offsets)]
    assert len(slices.time) == slices.offsets[-1] == log.manifest.events
    for name in ("user", "first_event", "time", "request_time", "item", "action", "label"):
        assert getattr(slices, name).tolist() == [v for p in parts for v in getattr(p, name).tolist()]
    begins = np.cumsum([0] + [len(p.time) for p in parts])
    assert slices.own.tolist() == [v + b for p, b in zip(parts, begins, strict=False) for v in p.own.tolist()]
    for name in slices.users:
        assert lists(slices.users[name]) == [v for p in parts for v in lists(p.users[name])]
    assert lists(slices.events["topics"]) == [v for p in parts for v in lists(p.events["topics"])]
    rows = np.arange(len(slices.time))
    stored = slices.counters["item_like_rate"].take(rows).tolist()
    assert stored == [v for p in parts for v in p.counters["item_like_rate"].take(np.arange(len(p.time))).tolist()]


def test_every_row_is_the_stored_one(log: Log) -> None:
    slices = log.source().read(log.manifest.row_groups)
    assert slices.first_event.tolist() == slices.offsets[:-1].tolist()
    rows = [r for f in sorted((log.folder / "events").iterdir()) for r in pq.read_table(f).to_pylist()]
    assert lists(slices.events["topics"]) == [event for r in rows for event in r["topics"]]
    assert slices.request_time.tolist() == [v for r in rows for v in r["request_time"]]
    assert join_slices([slices]) is slices


def lists(column: Column) -> list[Any]:
    if not isinstance(column, Ragged):
        return column.tolist()
    return [column.values[a:b].tolist() for a, b in itertools.pairwise(column.offsets)]


def test_what_is_no_impression_may_hold_anything(log: Log) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            for i, impression in enumerate(row["impression"]):
                if not impression:
                    row["item_like_count"][i], row["item_like_rate"][i], row["label_liked"][i] = -1.0, float("nan"), 7

    log.damage(EVENTS, change)
    log.read()


def test_users_files_may_have_row_groups_of_their_own(log: Log) -> None:
    rows = pq.read_table(log.folder / USERS)
    for size in (1, 2, 4, 100):
        pq.write_table(rows, log.folder / USERS, row_group_size=size)
        first, second = log.manifest.row_groups[:2]
        for groups in ([first, second], [second, first], [second]):
            got = log.source().read(groups)
            want = rows["age"].to_numpy()[got.user]
            np.testing.assert_allclose(np.array(lists(got.users["age"])), (want - 0.5) / 2)


def test_a_users_file_that_is_too_short(log: Log) -> None:
    log.damage(USERS, lambda rows: rows.pop())
    with pytest.raises(
        DataError, match=r"same order as .*events/part-00000.parquet, which differs at .*group 1, row 2"
    ):
        log.read()


def test_splits_are_ranges_of_request_time() -> None:
    split = Split(train_end=10, valid_end=20, test_end=30)
    time = np.array([0, 10, 11, 20, 21, 30, 31])
    inside = {name: time[in_split(time, split, name)].tolist() for name in ("train", "valid", "test")}
    assert inside == {"train": [0, 10], "valid": [11, 20], "test": [21, 30]}
    assert time[in_split(time, Split(train_end=10, valid_end=20), "test")].tolist() == [21, 30, 31]
    later = Split(train_start=0, train_end=10, valid_end=20, test_end=30)
    for name in inside:
        assert (in_split(time, later, name) == (later.number(time) == SPLITS.index(name))).all()
    assert time[in_split(time, later, "train")].tolist() == [10]
