"""Rows by falling count, row 0 for the rest, and the stated hash."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from ctr_rec.prepare.vocabulary import Counts, Rows, partition_of, vocabulary_path
from ctr_rec.schema.hashing import hash64
from ctr_rec.schema.log import Vocabulary


def counted(pairs: dict[str, int]) -> pl.DataFrame:
    return pl.DataFrame({"id": list(pairs), "count": list(pairs.values())}, schema={"id": pl.String, "count": pl.Int64})


def test_hash_is_the_stated_one() -> None:
    # `printf abc | b2sum -l 64` says d8bb14d833d59559; it may never change.
    assert hash64(["abc"]).tolist() == [int.from_bytes(bytes.fromhex("d8bb14d833d59559"), "little")]
    assert hash64([12]).tolist() == hash64(["12"]).tolist()
    assert hash64([]).tolist() == []


def test_rows_go_by_count_then_id() -> None:
    rows = Rows(Vocabulary(table="t", min_count=2), counted({"b": 5, "a": 5, "z": 9, "rare": 1, "new": 0}))
    assert dict(zip(rows.frame["id"], rows.frame["row"], strict=True)) == {"z": 1, "a": 2, "b": 3, "rare": 0, "new": 0}
    assert rows.info.rows == 4
    assert rows.info.ids == 5
    assert rows.info.out_of_vocabulary_share == 1 / 20
    assert rows.encode(pl.Series(["new", "b", "z", "b"])).tolist() == [0, 3, 1, 3]
    assert rows.table().column_names == ["id", "row", "count", "hash"]
    assert rows.table()["hash"].to_numpy().tolist() == hash64(rows.frame["id"]).tolist()


def test_ids_without_training_occurrences_get_row_0_even_at_min_count_1() -> None:
    rows = Rows(Vocabulary(table="t"), counted({"a": 1, "late": 0}))
    assert rows.encode(pl.Series(["late", "a"])).tolist() == [0, 1]


def test_old_rows_stay_and_new_ids_follow() -> None:
    """Also ids that the new log does not name keep theirs; one that was too rare before gets a row now."""
    old = pl.DataFrame({"id": ["b", "gone", "a"], "row": [2, 3, 1]}, schema={"id": pl.String, "row": pl.Int32})
    counts = counted({"a": 1, "b": 9, "rare": 1, "was_rare": 2, "y": 7, "x": 7, "late": 0})
    rows = Rows(Vocabulary(table="t", min_count=2), counts, old)
    assert rows.frame["id"].to_list() == ["a", "b", "gone", "x", "y", "was_rare", "rare", "late"]
    assert rows.frame["row"].to_list() == [1, 2, 3, 4, 5, 6, 0, 0]
    assert rows.frame["count"].to_list() == [1, 9, 0, 7, 7, 2, 1, 0]
    assert (rows.info.rows, rows.info.ids) == (7, 8)
    assert rows.encode(pl.Series(["rare", "b", "x"])).tolist() == [0, 2, 4]


def test_a_vocabulary_may_have_nothing_new() -> None:
    old = pl.DataFrame({"id": ["a"], "row": [1]}, schema={"id": pl.String, "row": pl.Int32})
    rows = Rows(Vocabulary(table="t"), Counts().frame(), old)
    assert (rows.info.rows, rows.frame["row"].to_list()) == (2, [1])


def test_hashed_rows_keep_every_raw_id() -> None:
    rows = Rows(Vocabulary(table="t", hash_rows=7), counted({f"i{k}": k for k in range(50)}))
    assert rows.info.rows == 8
    assert rows.frame["row"].min() == 1
    expected = 1 + (hash64(["i3", "i44"]) % np.uint64(7)).astype(np.int64)
    assert rows.encode(pl.Series(["i3", "i44"])).tolist() == expected.tolist()
    assert rows.info.ids == 50


def test_an_empty_vocabulary_has_its_row_0() -> None:
    rows = Rows(Vocabulary(table="t"), Counts().frame())
    assert rows.info.rows == 1
    assert rows.info.out_of_vocabulary_share == 0.0
    assert rows.encode(pl.Series([], dtype=pl.String)).tolist() == []


def test_counts_merge_in_any_order() -> None:
    one, two = Counts(), Counts()
    parts = [(["a", "b", "a"], [1, 0, 2]), (["c", "a"], [1, 1])]
    for ids, weights in parts:
        one.add(pl.Series(ids), pl.Series(weights))
    for ids, weights in reversed(parts):
        two.add(pl.Series(ids), pl.Series(weights))
    expected = {"a": 4, "b": 0, "c": 1}
    for counts in (one, two):
        assert dict(counts.frame().iter_rows()) == expected


def test_partition_is_the_hash_modulo() -> None:
    ids = pl.Series("u", [5, 7, 5, 9])
    expected = [int(h % np.uint64(3)) for h in hash64([5, 7, 5, 9])]
    assert partition_of(ids, 3).tolist() == expected
    assert partition_of(ids, 1).tolist() == [0] * 4


def test_path() -> None:
    assert vocabulary_path(Path("log"), "item") == Path("log/vocabulary/item.parquet")
