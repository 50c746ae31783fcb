"""Arrow columns to NumPy: types, offsets of slices, and the sentences for what does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctr_rec.batch import parquet
from ctr_rec.batch.columns import Ragged
from ctr_rec.batch.parquet import Frame, Place, open_parquet
from ctr_rec.errors import DataError
from ctr_rec.schema.log import Feature, Kind, Side


def frame(folder: Path, **columns: pa.Array) -> Frame:
    path = str(folder / "x.parquet")
    pq.write_table(pa.table(columns), path, row_group_size=2)
    return Frame(open_parquet(path), Place(path), list(columns))


def feature(kind: Kind, dim: int | None = None) -> Feature:
    table = "t" if kind in (Kind.CATEGORY, Kind.CATEGORIES) else None
    return Feature(name="x", kind=kind, side=Side.ITEM, table=table, dim=dim)


def test_lists_over_several_chunks(tmp_path: Path) -> None:
    values, offsets = frame(tmp_path, x=pa.array([[1, 2], [], [3], [4, 5, 6], []])).lists("x", np.int64)
    assert values.tolist() == [1, 2, 3, 4, 5, 6]
    assert offsets.tolist() == [0, 2, 2, 3, 6, 6]


def test_large_lists_and_narrow_integers(tmp_path: Path) -> None:
    values, offsets = frame(tmp_path, x=pa.array([[1], [2]], pa.large_list(pa.int8()))).lists("x", np.int16)
    assert (values.dtype, values.tolist(), offsets.tolist()) == (np.int16, [1, 2], [0, 1, 2])


def test_no_rows(tmp_path: Path) -> None:
    values, offsets = frame(tmp_path, x=pa.array([], pa.list_(pa.int64()))).lists("x", np.int64)
    assert (values.tolist(), offsets.tolist()) == ([], [0])


def test_lists_of_lists(tmp_path: Path) -> None:
    made = frame(tmp_path, x=pa.array([[[1], []], [], [[2, 3]]], pa.list_(pa.list_(pa.int32()))))
    column, offsets = made.feature(feature(Kind.CATEGORIES), nested=True)
    assert isinstance(column, Ragged)
    assert offsets is not None
    assert (column.values.tolist(), column.offsets.tolist(), offsets.tolist()) == (
        [1, 2, 3],
        [0, 1, 1, 3],
        [0, 2, 2, 3],
    )


@pytest.mark.parametrize("kind", [pa.list_(pa.float16(), 2), pa.list_(pa.float32(), 2), pa.list_(pa.float64())])
def test_vectors(tmp_path: Path, kind: pa.DataType) -> None:
    made = frame(tmp_path, x=pa.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], kind))
    column, _ = made.feature(feature(Kind.VECTOR, 2), nested=False)
    assert isinstance(column, np.ndarray)
    assert (column.dtype, column.tolist()) == (np.float32, [[1, 2], [3, 4], [5, 6]])


def test_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"column 'x' of .*x.parquet: expected a list, got int64"):
        frame(tmp_path, x=pa.array([1])).lists("x", np.int64)
    with pytest.raises(DataError, match=r"column 'x' of .*x.parquet: expected int64, got (double|float64)"):
        frame(tmp_path, x=pa.array([1.5])).plain("x", np.int64)
    with pytest.raises(DataError, match=r"column 'x' of .*x.parquet: expected bool, got int64"):
        frame(tmp_path, x=pa.array([[1]])).lists("x", np.bool_)
    with pytest.raises(DataError, match=r"column 'x' of .*: expected float32, got string"):
        frame(tmp_path, x=pa.array(["a"])).feature(feature(Kind.NUMBER), nested=False)
    with pytest.raises(DataError, match=r"column 'x' of .*, row 2: expected a value, got null"):
        frame(tmp_path, x=pa.array([1, 2, None])).plain("x", np.int64)
    with pytest.raises(DataError, match=r"feature 'x' of .*: the schema says dim 3, the file has 2"):
        frame(tmp_path, x=pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2))).feature(
            feature(Kind.VECTOR, 3), nested=False
        )
    with pytest.raises(DataError, match=r"column 'x' of .*, row 1: expected a vector of 2 numbers, got 1"):
        frame(tmp_path, x=pa.array([[1.0, 2.0], [3.0]])).feature(feature(Kind.VECTOR, 2), nested=False)


def test_damaged_pages_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"x": np.arange(20_000) // 3}), path, compression="zstd", use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[100:2000] = b"\xff" * 1900
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x.parquet, row group 0: the data is damaged"):
        Frame(open_parquet(str(path)), Place(str(path), 0), ["x"])


def test_row_groups_below_each_other_are_named_one_by_one(tmp_path: Path) -> None:
    path = str(tmp_path / "x.parquet")
    values = pa.array([[n, 10 * n] for n in range(7)])
    pq.write_table(pa.table({"x": values}), path, row_group_size=3)
    made = Frame(open_parquet(path), Place(path), ["x"], [2, 0])
    got, offsets = made.lists("x", np.int64)
    assert got.tolist() == [6, 60, 0, 0, 1, 10, 2, 20]
    assert made.first_rows.tolist() == [0, 1, 4]
    with pytest.raises(DataError, match=r"'x' of .*, row group 0, row 2, position 1 in it: expected few, got 20"):
        made.refuse(got == 20, offsets, "x", got, "few")
    with pytest.raises(DataError, match=r"'x' of .*, row group 2, row 0, position 0 in it: expected few, got 6"):
        made.refuse(got == 6, offsets, "x", got, "few")


def test_the_damaged_row_group_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    table = pa.table({"x": np.arange(60_000) // 3})
    pq.write_table(table, path, compression="zstd", use_dictionary=False, row_group_size=20_000)
    begin = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[begin : begin + 60] = b"\xff" * 60
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x.parquet, row group 1: the data is damaged"):
        Frame(open_parquet(str(path)), Place(str(path)), ["x"], [2, 1, 0])


@pytest.mark.parametrize("start", [0, 3, 8, 13])
def test_flags_of_slices(tmp_path: Path, start: int) -> None:
    flags = np.random.default_rng(0).random(40) < 0.5
    values, _ = frame(tmp_path, x=pa.array([flags[:start].tolist(), flags[start:].tolist()])).lists("x", np.bool_)
    assert values.tolist() == flags.tolist()
    assert parquet._flags(pa.array(flags)[start:30]).tolist() == flags[start:30].tolist()
    assert parquet._flags(pa.array([], pa.bool_())).tolist() == []
