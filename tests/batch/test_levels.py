"""Distinct rows over levels that share a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ctr_rec.batch.columns import Ragged, Scratch
from ctr_rec.batch.levels import Levels, profiles
from ctr_rec.schema.table import EmbeddingSettings, sparse_spec
from tests.batch.logs import random_users, write_log


def test_a_table_read_on_two_levels_has_each_row_once(tmp_path: Path) -> None:
    spec = sparse_spec(write_log(tmp_path, random_users(0)), EmbeddingSettings(dim=4))
    levels = Levels(spec, Scratch(), 1)
    genres = Ragged(np.array([6, 1, 1], np.int32), np.array([0, 2, 2, 3]))
    topics = Ragged(np.array([3, 6], np.int32), np.array([0, 0, 2]))
    items = {
        "film": np.array([9, 8, 7], np.int32),
        "genres": genres,
        "price": np.array([1.0, 2.0, 3.0], np.float32),
        "content": np.arange(9, dtype=np.float32).reshape(3, 3),
    }
    events = {"tab": np.array([4, 4], np.int32), "topics": topics, "dwell": np.zeros(2, np.float32)}
    levels.add("items", spec.item, items, np.array([2, 0, 1]), np.array([0, 3]))
    levels.add("events", spec.event, events, np.array([1, 0]), np.array([0, 2]))
    every, (tables,) = levels.finish()
    found = {level: alone for level, (alone,) in every.items()}
    assert {name: rows.tolist() for name, rows in tables.items()} == {"genre": [1, 3, 6], "item": [7, 8, 9], "tab": [4]}
    ids = found["items"].ids["genres"]
    assert ids.offsets is not None
    assert (tables["genre"][ids.index].tolist(), ids.offsets.tolist()) == ([1, 6, 1], [0, 1, 3, 3])
    other = found["events"].ids["topics"]
    assert tables["genre"][other.index].tolist() == [3, 6]
    assert found["items"].numbers["price"].tolist() == [3.0, 1.0, 2.0]
    assert found["items"].vectors["content"].tolist() == [[6, 7, 8], [0, 1, 2], [3, 4, 5]]


def test_a_table_nobody_reads_in_this_batch_is_there_and_empty(tmp_path: Path) -> None:
    spec = sparse_spec(write_log(tmp_path, random_users(0)), EmbeddingSettings(dim=4))
    _, (tables,) = Levels(spec, Scratch(), 1).finish()
    assert list(tables) == [t.name for t in spec.collection()]
    assert all(rows.dtype == torch.int64 and rows.shape == (0,) for rows in tables.values())


def test_profiles_have_one_bag_per_user(tmp_path: Path) -> None:
    spec = sparse_spec(write_log(tmp_path, random_users(0)), EmbeddingSettings(dim=4))
    columns = {
        "gender": np.array([2, 0], np.int32),
        "likes": Ragged(np.array([1, 2], np.int32), np.array([0, 2, 2])),
        "age": np.array([0.5, 1.5], np.float32),
    }
    (bags,), (level,) = profiles(spec.user, columns, np.array([1, 0]), np.array([0, 2]))
    assert (bags["gender"].values.tolist(), bags["gender"].offsets.tolist()) == ([0, 2], [0, 1, 2])
    assert (bags["likes"].values.tolist(), bags["likes"].offsets.tolist()) == ([1, 2], [0, 0, 2])
    assert level.numbers["age"].tolist() == [1.5, 0.5]


def test_each_batch_of_a_lot_has_rows_and_offsets_of_its_own(tmp_path: Path) -> None:
    spec = sparse_spec(write_log(tmp_path, random_users(0)), EmbeddingSettings(dim=4))
    levels = Levels(spec, Scratch(), 2)
    events = {
        "tab": np.array([4, 1, 4], np.int32),
        "topics": Ragged(np.array([3, 6, 6], np.int32), np.array([0, 1, 2, 3])),
        "dwell": np.arange(3, dtype=np.float32),
    }
    levels.add("events", spec.event, events, np.array([0, 1, 2]), np.array([0, 1, 3]))
    found, tables = levels.finish()
    assert [t["tab"].tolist() for t in tables] == [[4], [1, 4]]
    assert [t["genre"].tolist() for t in tables] == [[3], [6]]
    assert [level.ids["tab"].index.tolist() for level in found["events"]] == [[0], [0, 1]]
    offsets = [level.ids["topics"].offsets for level in found["events"]]
    assert [o.tolist() for o in offsets if o is not None] == [[0, 1], [0, 1, 2]]
    assert [level.numbers["dwell"].tolist() for level in found["events"]] == [[0.0], [1.0, 2.0]]
