"""Row groups: whole users, bounded, counted."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctr_rec.prepare.fingerprint import Fingerprint
from ctr_rec.prepare.write import PartWriter, count_rows, cut_users, flat, write_table
from tests.prepare.raws import SIMPLE_SPLIT, simple_schema


@pytest.mark.parametrize(
    ("lengths", "limit", "runs"),
    [
        ([], 10, []),
        ([3], 10, [(0, 1)]),
        ([3, 3, 4, 1], 10, [(0, 3), (3, 4)]),
        ([30, 2, 2], 10, [(0, 1), (1, 3)]),
        ([2, 30, 2], 10, [(0, 1), (1, 2), (2, 3)]),
        ([0, 0, 10, 0], 10, [(0, 4)]),
    ],
)
def test_users_are_cut_whole(lengths: list[int], limit: int, runs: list[tuple[int, int]]) -> None:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    assert cut_users(offsets, limit) == runs


def rows(times: list[list[int]], labels: list[list[int]]) -> pa.Table:
    label = pa.array(labels, pa.list_(pa.int8()))
    shown = pa.array([[v >= 0 for v in row] for row in labels], pa.list_(pa.bool_()))
    return pa.table({"request_time": pa.array(times), "impression": shown, "label_click": label})


def test_counts_by_split_leave_out_what_is_no_impression() -> None:
    counted = count_rows(rows([[1, 19, 20], [], [25, 9]], [[1, 0, 1], [], [1, -1]]), simple_schema(), SIMPLE_SPLIT)
    assert counted.events == 5
    assert counted.impressions == (2, 1, 1)
    assert counted.positives == {"click": (1, 1, 1)}


def test_flat_joins_the_users() -> None:
    assert flat(rows([[1, 2], [], [3]], [[1, 1], [], [0]]), "request_time").tolist() == [1, 2, 3]


def test_parts_number_their_row_groups(tmp_path) -> None:
    writer = PartWriter(tmp_path, simple_schema(), SIMPLE_SPLIT, row_group_events=3)
    fingerprint = Fingerprint(simple_schema(), SIMPLE_SPLIT)
    for part in range(2):
        events = rows([[1, 2], [30], [21]], [[1, 1], [0], [0]])
        users = pa.table({"user": [0, 1, 2]})
        writer.write(part, events, users, np.array([0, 2, 3, 4]), fingerprint)
    assert [(g.file, g.index, g.users, g.events, g.first_event) for g in writer.row_groups] == [
        ("events/part-00000.parquet", 0, 2, 3, 0),
        ("events/part-00000.parquet", 1, 1, 1, 3),
        ("events/part-00001.parquet", 0, 2, 3, 4),
        ("events/part-00001.parquet", 1, 1, 1, 7),
    ]
    assert writer.impressions() == (4, 2, 2)
    assert writer.positives == {"click": [4, 0, 0]}
    assert pq.ParquetFile(tmp_path / "users" / "part-00001.parquet").num_row_groups == 2


def test_write_table_makes_its_folder(tmp_path) -> None:
    write_table(tmp_path / "a" / "b.parquet", pa.table({"x": [1]}))
    assert pq.read_table(tmp_path / "a" / "b.parquet").to_pydict() == {"x": [1]}
