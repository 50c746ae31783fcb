"""Arrow columns to NumPy: types, offsets of slices, and the sentences for what does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

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


@pytest.mark.parametrize("kind", [pa.list_(pa.float32(), 2), pa.list_(pa.float64())])
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
