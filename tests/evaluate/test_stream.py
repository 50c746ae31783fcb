from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctr_rec.batch.config import DataConfig, Pointwise
from ctr_rec.batch.reader import Reader
from ctr_rec.errors import ConfigError, DataError
from ctr_rec.evaluate.stream import first_times, item_categories, read_stream
from ctr_rec.schema.log import Split
from ctr_rec.schema.manifest import SPLITS, load_manifest
from ctr_rec.schema.table import EmbeddingSettings, sparse_spec
from tests.batch.logs import random_users, schema, write_log


@pytest.fixture
def log(tmp_path: Path) -> Path:
    write_log(tmp_path / "log", random_users(seed=8, count=22), log_schema=schema(action_delay=25))
    return tmp_path / "log"


@pytest.mark.parametrize("split", SPLITS)
def test_the_stream_and_the_reader_speak_of_the_same_impressions(log: Path, split: str) -> None:
    manifest = load_manifest(log)
    stream = read_stream(str(log), manifest, "liked")
    rows = stream.rows(split)
    data = DataConfig(log=str(log), label="liked", batches=Pointwise(impressions=32), shuffle=False)
    batches = list(Reader(data, sparse_spec(manifest, EmbeddingSettings()), split, seed=0).batches(0))
    columns = {
        "event_id": [b.impression_id for b in batches],
        "user": [b.user[b.impression_user] for b in batches],
        "item": [b.item[b.impression_item] for b in batches],
        "request_time": [b.impression_time for b in batches],
        "history_length": [b.history_length for b in batches],
        "label": [b.label for b in batches],
    }
    found = {name: np.concatenate([part.numpy() for part in parts]) for name, parts in columns.items()}
    order = np.argsort(found["event_id"])
    assert len(rows) == len(order) > 0
    for name, values in found.items():
        assert np.array_equal(getattr(stream, name)[rows], values[order]), name


def test_what_lies_behind_the_end_of_the_test_range_is_no_row(tmp_path: Path) -> None:
    write_log(tmp_path, random_users(seed=8), split=Split(train_end=300, valid_end=500, test_end=700))
    stream = read_stream(str(tmp_path), load_manifest(tmp_path), "liked")
    assert stream.request_time[stream.rows("test")].max() <= 700
    assert (stream.request_time[stream.split < 0] > 700).any()
    assert (stream.label[stream.split >= 0] >= 0).all()


def test_categories_leave_out_what_names_the_item_and_what_is_no_category(log: Path) -> None:
    assert list(item_categories(str(log), load_manifest(log))) == ["genres"]


def test_first_times_are_by_item_number(log: Path) -> None:
    path = log / "items" / "items.parquet"
    table = pq.read_table(path)
    times = pa.array(range(100, 100 + len(table)), pa.int64())
    pq.write_table(table.set_column(table.column_names.index("first_time"), "first_time", times), path)
    assert np.array_equal(first_times(str(log)), np.arange(100, 139))


def test_an_unknown_label_is_refused(log: Path) -> None:
    with pytest.raises(ConfigError, match="label: expected one of liked, got 'bought'"):
        read_stream(str(log), load_manifest(log), "bought")


def _replace(log: Path, column: str, change: dict[int, list[int]]) -> None:
    path = log / "events" / "part-00000.parquet"
    table = pq.read_table(path)
    values = table[column].to_pylist()
    for row, value in change.items():
        values[row] = value
    array = pa.array(values, table.schema.field(column).type)
    pq.write_table(table.set_column(table.column_names.index(column), column, array), path, row_group_size=3)


def test_a_label_that_is_none_is_named(log: Path) -> None:
    row = pq.read_table(log / "events" / "part-00000.parquet")["label_liked"].to_pylist()[0]
    at = row.index(next(label for label in row if label >= 0))
    _replace(log, "label_liked", {0: [*row[:at], 5, *row[at + 1 :]]})
    with pytest.raises(DataError, match=rf"'label_liked' of .*row 0, position {at} in it: expected 0 or 1.*got 5"):
        read_stream(str(log), load_manifest(log), "liked")


def test_lists_of_different_lengths_are_refused(log: Path) -> None:
    _replace(log, "item", {1: [1]})
    with pytest.raises(DataError, match=r"column 'item' of .*: expected lists as long as those of 'time'"):
        read_stream(str(log), load_manifest(log), "liked")


def test_a_log_without_row_groups_is_refused(log: Path) -> None:
    empty = load_manifest(log).model_copy(update={"row_groups": ()})
    with pytest.raises(DataError, match="expected events, got no row group"):
        read_stream(str(log), empty, "liked")
