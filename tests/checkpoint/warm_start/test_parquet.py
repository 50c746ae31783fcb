from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ctr_rec.checkpoint.warm_start import parquet
from ctr_rec.checkpoint.warm_start.parquet import open_parquet_source
from ctr_rec.checkpoint.warm_start.rows import RowReader
from ctr_rec.errors import CheckpointError
from tests.checkpoint.warm_start.cases import write_parquet


def read(reader: RowReader, wanted: np.ndarray) -> np.ndarray:
    out = np.full((len(wanted), reader.width), np.nan)
    for start, block in reader.blocks(wanted):
        out[start : start + block.shape[0]] = block.double().numpy()
    return out


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("parts", [1, 3])
def test_rows_of_parts_and_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: type, parts: int) -> None:
    monkeypatch.setattr(parquet, "BLOCK_BYTES", 3 * 5 * np.dtype(dtype).itemsize)
    vectors = np.random.default_rng(0).normal(size=(40, 5)).astype(dtype)
    state = np.arange(40, dtype=np.float32)
    write_parquet(tmp_path / "item.parquet", range(40), vectors, parts, momentum1=state)
    table = open_parquet_source(tmp_path).find("item")
    assert table is not None
    assert table.rows == 40
    assert len(table.id_files) == parts
    for wanted in (np.arange(40), np.array([0, 0, 13, 14, 39]), np.array([26]), np.zeros(0, np.int64)):
        assert np.array_equal(read(table.vectors, wanted), vectors[wanted].astype(np.float64))
        assert np.array_equal(read(table.states["momentum1"], wanted)[:, 0], state[wanted])
    assert table.states["momentum1"].flat
    assert np.array_equal(table.vectors.row(30).numpy(), vectors[30])
    assert "its row" in table.vectors.file_of(39)


def write(path: Path, vectors: pa.Array, **columns: object) -> Path:
    pq.write_table(pa.table({"id": list(range(len(vectors))), "vector": vectors, **columns}), path)
    return path


def test_lists_of_any_kind_are_vectors(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32())))
    table = open_parquet_source(path).find("t")
    assert table is not None
    assert table.vectors.dtype == torch.float32
    assert read(table.vectors, np.array([1])).tolist() == [[3.0, 4.0]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1.0, 2.0], [3.0]], r"t.parquet: row 1 of column vector has 1 numbers; expected 2 numbers"),
        ([[1.0, 2.0], None], r"t.parquet: row 1 of column vector has no value; expected 2 numbers"),
        ([[1.0, 2.0], [3.0, None]], r"t.parquet: row 1 of column vector has"),
    ],
)
def test_vectors_that_are_not_whole(tmp_path: Path, rows: list, message: str) -> None:
    path = write(tmp_path / "t.parquet", pa.array(rows, pa.list_(pa.float32())))
    table = open_parquet_source(path).find("t")
    assert table is not None
    with pytest.raises(CheckpointError, match=message):
        read(table.vectors, np.array([0, 1]))


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", pa.array([[1, 2]], pa.list_(pa.int32())))
    with pytest.raises(CheckpointError, match=r"column vector is list<.*int32>; expected float32, float64, float16"):
        open_parquet_source(path)
    pq.write_table(pa.table({"id": [1], "weights": [2.0]}), path)
    with pytest.raises(CheckpointError, match=r"t.parquet has no column vector; expected id, vector and optionally"):
        open_parquet_source(path)
    write(path, pa.array([], pa.list_(pa.float32())))
    with pytest.raises(CheckpointError, match=r"column vector has no row, so no width either"):
        open_parquet_source(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=r"t.parquet is damaged or no Parquet file"):
        open_parquet_source(tmp_path)


def test_a_table_has_one_place_and_parts_agree(tmp_path: Path) -> None:
    vectors = np.ones((6, 2), np.float32)
    write_parquet(tmp_path / "t.parquet", range(6), vectors, 2, sum=np.ones(6))
    path = tmp_path / "t" / "part-1.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["state_sum"]), path)
    table = open_parquet_source(tmp_path).find("t")
    assert table is not None
    with pytest.raises(CheckpointError, match=r"part-1.parquet has no column state_sum, which other parts"):
        read(table.states["sum"], np.arange(6))
    write_parquet(tmp_path / "t.parquet", range(6), vectors)
    with pytest.raises(CheckpointError, match=r"has both t.parquet and a folder t/; remove one"):
        open_parquet_source(tmp_path)


def test_a_damaged_row_group_is_named(tmp_path: Path) -> None:
    vectors = pa.array(np.arange(20000).reshape(5000, 4).tolist(), pa.list_(pa.float32()))
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"id": range(5000), "vector": vectors}), path, compression="zstd", use_dictionary=False)
    table = open_parquet_source(path).find("t")
    assert table is not None
    place = pq.ParquetFile(path).metadata.row_group(0).column(1)
    content = bytearray(path.read_bytes())
    start = place.data_page_offset
    content[start : start + place.total_compressed_size] = b"\xff" * place.total_compressed_size
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=r"t.parquet is damaged"):
        read(table.vectors, np.arange(5000))
