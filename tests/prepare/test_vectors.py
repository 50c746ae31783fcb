"""A file of item vectors: read whatever its float type, scaled to length 1, refused where it is not whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctr_rec.errors import DataError
from ctr_rec.prepare.vectors import normalised, read_vectors


def write(path: Path, ids: list, vectors: pa.Array) -> Path:
    pq.write_table(pa.table({"item_id": ids, "vector": vectors}), path)
    return path


def lists(rows: list, kind: pa.DataType | None = None) -> pa.Array:
    return pa.array(rows, kind or pa.list_(pa.float32()))


@pytest.mark.parametrize("number", [pa.float16(), pa.float32(), pa.float64()])
@pytest.mark.parametrize("fixed", [True, False])
def test_every_float_type_and_list_is_read_and_scaled(tmp_path: Path, number: pa.DataType, fixed: bool) -> None:
    kind = pa.list_(number, 2) if fixed else pa.list_(number)
    rows = [np.array(v, number.to_pandas_dtype()) for v in ([3.0, 4.0], [0.0, 0.0], [0.0, -2.0])]
    frame, dim = read_vectors(write(tmp_path / "v.parquet", ["a", "b", "c"], lists(rows, kind)))
    assert dim == 2
    assert frame["item_id"].to_list() == ["a", "b", "c"]
    assert frame.schema["vector"] == pl.List(pl.Float32)
    assert np.allclose(frame["vector"].to_list(), [[0.6, 0.8], [0, 0], [0, -1]], atol=1e-7)


def test_large_vectors_do_not_overflow() -> None:
    assert np.allclose(normalised(np.array([[1e38, 1e38]], np.float32)), [[0.5**0.5, 0.5**0.5]])


@pytest.mark.parametrize(
    ("ids", "rows", "words"),
    [
        ([1, 1, 2], [[1.0], [2.0], [3.0]], "expected every item once, got 2 other rows, the first of item 1"),
        ([1, None, 2], [[1.0], [2.0], [3.0]], "expected every item once, got 1 other rows, the first of item None"),
        ([1, 2, 3], [[1.0, 2.0], [2.0], [3.0, 0.0]], "expected 2 numbers in every vector, got 1 other rows, the first"),
        ([1, 2], [[1.0], None], "expected 1 numbers in every vector, got 1 other rows, the first of item 2"),
        ([1, 2], [[], []], "expected some numbers in every vector, got 2 other rows"),
        ([1, 2], [[1.0, 0.0], [float("inf"), 0.0]], "expected finite numbers, got 1 other rows, the first of item 2"),
    ],
)
def test_rows_that_are_not_whole_are_named(tmp_path: Path, ids: list, rows: list, words: str) -> None:
    file = write(tmp_path / "v.parquet", ids, lists(rows))
    with pytest.raises(DataError, match=r"--content .*v\.parquet: ") as caught:
        read_vectors(file)
    assert words in str(caught.value)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "v.parquet", pa.array([], pa.int64()), lists([]))
    with pytest.raises(DataError, match="expected every item once, got no row"):
        read_vectors(file)


def test_other_columns_types_and_formats_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1], "vector": [[1.0]]}), tmp_path / "columns.parquet")
    with pytest.raises(DataError, match=r"expected Parquet with columns item_id and vector"):
        read_vectors(tmp_path / "columns.parquet")
    (tmp_path / "no.parquet").write_text("x")
    for name in ("no.parquet", "nowhere.parquet"):
        with pytest.raises(DataError, match=r"make it with `ctr-rec content`"):
            read_vectors(tmp_path / name)
    with pytest.raises(DataError, match=r"a list of floats, got Int64 and List\(Int64\)"):
        read_vectors(write(tmp_path / "ints.parquet", [1], pa.array([[1]])))
    with pytest.raises(DataError, match=r"got Float64 and List\(Float32\); cast them"):
        read_vectors(write(tmp_path / "ids.parquet", [1.5], lists([[1.0]])))
    with pytest.raises(DataError, match=r"got Int64 and Int64"):
        read_vectors(write(tmp_path / "flat.parquet", [1], pa.array([1])))
