"""Writes a table as Parquet: a line per row, or per id where ids are known (layout: `ctr_rec.checkpoint.export`).

Legend: R lines of a slice, D width.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ctr_rec.checkpoint.export.row_ids import RowIds
from ctr_rec.checkpoint.tensors import StoredTable, WholeTensor
from ctr_rec.errors import CheckpointError

WITHOUT_ID = "rows_without_id"
VECTOR, STATE = "vector", "state_"
# bfloat16 has no type in Arrow; every value of it is one of float32.
TYPES = {
    torch.float32: pa.float32(),
    torch.float64: pa.float64(),
    torch.float16: pa.float16(),
    torch.bfloat16: pa.float32(),
}


def write_parquet(table: StoredTable, name: str, out: Path, ids: RowIds | None, rows_per_file: int | None) -> str:
    """Writes `name`.parquet, or part files in the folder `name`, below `out`; says what was written.

    Raises CheckpointError for values that are no floats, and where the checkpoint is damaged.
    """
    columns = {VECTOR: table.weight, **{STATE + key: state for key, state in table.states.items()}}
    fields = [pa.field("row", pa.int64()), *(pa.field(c, _type(c, t)) for c, t in columns.items())]
    named = pa.schema([pa.field("id", pa.string()), *fields]) if ids is not None else pa.schema(fields)
    with ExitStack() as stack:
        main = stack.enter_context(Parts(out / name, named, rows_per_file))
        rest = stack.enter_context(Parts(out / WITHOUT_ID / name / "rows", pa.schema(fields), rows_per_file))
        for first, vectors in table.weight.slices(table.rows_per_slice):
            values = {VECTOR: vectors, **{STATE + k: s.rows(first, len(vectors)) for k, s in table.states.items()}}
            _write_slice(first, values, ids, main, rest)
    return f"{main.lines:,} lines with ids, {rest.lines:,} rows without" if ids is not None else f"{main.lines:,} rows"


def _write_slice(first: int, values: dict[str, Tensor], ids: RowIds | None, main: Parts, rest: Parts) -> None:
    size = len(values[VECTOR])
    if ids is None:
        main.write(_lines(np.arange(first, first + size), first, values))
        return
    rows_R, names_R = ids.between(first, first + size)
    main.write({"id": names_R, **_lines(rows_R, first, values)})
    others_R = np.setdiff1d(np.arange(first, first + size), rows_R)
    rest.write(_lines(others_R, first, values))


def _lines(rows_R: np.ndarray, first: int, values: dict[str, Tensor]) -> dict[str, pa.Array]:
    taken = torch.from_numpy(rows_R - first)
    return {"row": pa.array(rows_R, pa.int64()), **{c: _array(v.index_select(0, taken)) for c, v in values.items()}}


def _array(values: Tensor) -> pa.Array:
    flat = pa.array((values.float() if values.dtype is torch.bfloat16 else values).reshape(-1).numpy())
    return flat if values.dim() == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _type(column: str, tensor: WholeTensor) -> pa.DataType:
    if tensor.dtype not in TYPES or len(tensor.shape) > 2:
        raise CheckpointError(
            f"{tensor.name} is {tensor.dtype} of shape {tensor.shape}; Parquet's column {column} takes floats, one "
            "or a vector per row; use --to safetensors"
        )
    number, width = TYPES[tensor.dtype], tensor.shape[1:]
    return pa.list_(number, width[0]) if width else number


class Parts:
    """One file `place`.parquet, or files of `limit` lines in the folder `place`; none is made before the first line."""

    def __init__(self, place: Path, schema: pa.Schema, limit: int | None) -> None:
        self._place, self._schema, self._limit = place, schema, limit
        self._writer: pq.ParquetWriter | None = None
        self._in_file = self._files = 0
        self.lines = 0

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def write(self, columns: dict[str, pa.Array]) -> None:
        batch = pa.table(columns, schema=self._schema)
        while batch.num_rows:
            taken = batch.slice(0, batch.num_rows if self._limit is None else self._limit - self._in_file)
            self._open().write_table(taken)
            self._in_file += taken.num_rows
            self.lines += taken.num_rows
            batch = batch.slice(taken.num_rows)
            if self._in_file == self._limit:
                self._close()

    def _open(self) -> pq.ParquetWriter:
        if self._writer is None:
            path = self._place / f"part-{self._files:05d}.parquet"
            if self._limit is None:
                path = self._place.with_name(self._place.name + ".parquet")
            path.parent.mkdir(parents=True, exist_ok=True)
            self._files, self._in_file = self._files + 1, 0
            # Vectors neither repeat nor compress.
            self._writer = pq.ParquetWriter(path, self._schema, use_dictionary=False, compression="none")
        return self._writer

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
