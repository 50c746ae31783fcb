from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctr_rec.checkpoint.warm_start.id_stream import IdStream, map_columns, map_stream, own_stream, vocabulary_stream
from ctr_rec.errors import CheckpointError


def write(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=2)
    return path


def read(stream: IdStream) -> list[tuple[str, int]]:
    return [pair for b in stream.read() for pair in zip(b.ids.to_list(), b.rows.tolist(), strict=True)]


def test_whole_numbers_are_ids_in_decimal(tmp_path: Path) -> None:
    path = write(tmp_path / "v.parquet", id=pa.array([7, -3, 12], pa.int32()), row=[1, 0, 2], count=[3, 2, 1])
    stream = vocabulary_stream(path, 0, 3)
    assert read(stream) == [("7", 1), ("12", 2)]
    assert read(stream) == read(stream)
    assert read(own_stream([path, path])) == [("7", 0), ("-3", 1), ("12", 2), ("7", 3), ("-3", 4), ("12", 5)]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": ["a"], "place": [1]}, r"v.parquet: expected columns id, row and optionally count, got id, place"),
        ({"id": ["a"], "row": [9]}, r"id 'a' has row 9, but the source's table has rows 0 to 4"),
        ({"id": ["a"], "row": [-1]}, r"id 'a' has row -1, but"),
        ({"id": ["a", None], "row": [1, 2]}, r"1 ids are absent"),
        ({"id": ["a", "b"], "row": [1, None]}, r"column row is int64 with 1 absent values; expected whole numbers"),
        ({"id": [1.5], "row": [1]}, r"ids are double; expected text or whole numbers"),
        ({"id": ["a", "b", "c"], "row": [0, 1, 0]}, r"two ids have row 0; if it is the row of all others, set out_of_"),
        ({"id": ["a", "b"], "row": [3, 3]}, r"two ids have row 3"),
    ],
)
def test_vocabularies_that_cannot_be_trusted(tmp_path: Path, columns: dict[str, list], message: str) -> None:
    path = write(tmp_path / "v.parquet", **columns)
    with pytest.raises(CheckpointError, match=message):
        read(vocabulary_stream(path, None, 5))


def test_each_reader_looks_at_its_share_of_the_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "v.parquet", id=["a", "b", "c", "d"], row=[3, 1, 3, 2])
    read(vocabulary_stream(path, None, 5, (0, 2)))
    with pytest.raises(CheckpointError, match="two ids have row 3"):
        read(vocabulary_stream(path, None, 5, (1, 2)))


def test_maps_have_exactly_their_columns(tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.parquet", id=["a"], source_row=[4])
    names = write(tmp_path / "names.parquet", id=["a"], source_id=[17])
    assert map_columns(rows) == "source_row"
    assert read(map_stream(rows, 5)) == [("a", 4)]
    (batch,) = map_stream(names, 5).read()
    assert batch.targets is not None
    assert batch.targets.to_list() == ["17"]
    with pytest.raises(CheckpointError, match=r"id 'a' has row 4, but the source's table has rows 0 to 3"):
        read(map_stream(rows, 4))
    for columns in ({"id": ["a"], "row": [1]}, {"id": ["a"], "source_row": [1], "weight": [1.0]}, {"source_id": ["a"]}):
        path = write(tmp_path / "bad.parquet", **columns)
        with pytest.raises(
            CheckpointError, match=r"bad.parquet: a map has columns id and source_row, or id and source"
        ):
            map_columns(path)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "v.parquet", id=["a"], row=[1])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CheckpointError, match=r"v.parquet is damaged or no Parquet file"):
        read(vocabulary_stream(path, None, 5))
