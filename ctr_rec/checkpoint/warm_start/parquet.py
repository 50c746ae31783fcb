"""Parquet of (id, vector[, state_<key>]) as a source: what a parameter server or a feature store can export.

A table is a file `<table>.parquet` or a folder `<table>/` of part files; its rows are numbered through the parts in the
order of their names. Row groups that hold none of the rows asked for are passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ctr_rec.checkpoint.warm_start.rows import BLOCK_BYTES, Int64
from ctr_rec.checkpoint.warm_start.source import Source, SourceTable
from ctr_rec.errors import CheckpointError

ENDING = ".parquet"
STATE = "state_"
_DTYPES = {pa.float32(): torch.float32, pa.float64(): torch.float64, pa.float16(): torch.float16}


@dataclass(frozen=True)
class _Part:
    path: Path
    first: int
    rows: int


def open_parquet_source(path: Path) -> Source:
    """Opens a folder of tables, or one file as the table of its name.

    Raises:
        CheckpointError: a file cannot be read, lacks `id` or `vector`, or holds something else than floats.
    """
    if path.is_file():
        groups = {path.stem: [path]}
    else:
        groups = {p.name: sorted(p.glob(f"*{ENDING}")) for p in sorted(path.iterdir()) if p.is_dir()}
        groups = {name: files for name, files in groups.items() if files}
        for file in sorted(path.glob(f"*{ENDING}")):
            if file.stem in groups:
                raise CheckpointError(f"{path} has both {file.name} and a folder {file.stem}/; remove one")
            groups[file.stem] = [file]
    return Source(str(path), "parquet", {name: _table(name, files) for name, files in groups.items()})


def _table(name: str, files: Sequence[Path]) -> SourceTable:
    parts, first = [], 0
    for file in files:
        rows = open_file(file).metadata.num_rows
        parts.append(_Part(file, first, rows))
        first += rows
    schema = open_file(files[0]).schema_arrow
    missing = {"id", "vector"} - set(schema.names)
    if missing:
        raise CheckpointError(
            f"{files[0]} has no column {', '.join(sorted(missing))}; expected id, vector and optionally "
            f"{STATE}<key>, got {', '.join(schema.names)}"
        )
    states = {c.removeprefix(STATE): ParquetRows(c, parts) for c in schema.names if c.startswith(STATE)}
    return SourceTable(name, ParquetRows("vector", parts), states, tuple(files))


def open_file(path: Path) -> pq.ParquetFile:
    """Raises CheckpointError where it is missing or damaged."""
    try:
        return pq.ParquetFile(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist; copy the source again") from error
    except (OSError, pa.ArrowException) as error:
        raise CheckpointError(f"{path} is damaged or no Parquet file ({error}); copy it again") from error


class ParquetRows:
    """A `RowReader` of one column of numbers or of lists of them."""

    def __init__(self, column: str, parts: Sequence[_Part]) -> None:
        self._column, self._parts = column, parts
        self.where = str(parts[0].path.parent if len(parts) > 1 else parts[0].path)
        self.rows = sum(p.rows for p in parts)
        kind = open_file(parts[0].path).schema_arrow.field(column).type
        self.flat = not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
        number = kind if self.flat else kind.value_type
        if number not in _DTYPES:
            raise CheckpointError(
                f"{parts[0].path}: column {column} is {kind}; expected float32, float64, float16 or lists of them"
            )
        self.dtype = _DTYPES[number]
        self.width = 1 if self.flat else kind.list_size if pa.types.is_fixed_size_list(kind) else self._first_width()

    def _first_width(self) -> int:
        for part in self._parts:
            for batch in _batches(part.path, self._column, None, 1):
                if batch.num_rows and batch.column(0).is_valid()[0].as_py():
                    return len(batch.column(0)[0])
        raise CheckpointError(f"{self.where}: column {self._column} has no row, so no width either")

    def file_of(self, row: int) -> str:
        return next(f"{p.path} (its row {row - p.first})" for p in self._parts if p.first <= row < p.first + p.rows)

    def row(self, row: int) -> Tensor:
        part = next(p for p in self._parts if p.first <= row < p.first + p.rows)
        value = pq.read_table(part.path, columns=[self._column])[self._column][row - part.first].as_py()
        return torch.tensor(np.atleast_1d(value), dtype=self.dtype)

    def blocks(self, rows_N: Int64, into_ND: Tensor | None = None) -> Iterator[tuple[int, Tensor]]:
        del into_ND  # decoded values lie elsewhere anyway
        for part in self._parts:
            metadata, first = open_file(part.path).metadata, part.first
            for group in range(metadata.num_row_groups):
                last = first + metadata.row_group(group).num_rows
                low, high = np.searchsorted(rows_N, [first, last])
                if low < high:
                    yield from self._group(part, group, first, rows_N, int(low), int(high))
                first = last

    def _group(
        self, part: _Part, group: int, first: int, rows_N: Int64, low: int, high: int
    ) -> Iterator[tuple[int, Tensor]]:
        step = max(1, BLOCK_BYTES // (self.width * self.dtype.itemsize))
        for batch in _batches(part.path, self._column, [group], step):
            stop = low + int(np.searchsorted(rows_N[low:high], first + batch.num_rows))
            if low < stop:
                values = self._values(batch.column(0), part, first)
                yield low, values.index_select(0, torch.from_numpy(rows_N[low:stop] - first))
            low, first = stop, first + batch.num_rows

    def _values(self, array: pa.Array, part: _Part, first: int) -> Tensor:
        """[rows of the batch, width]; every row has a value of the full width."""
        if self.flat:
            flat, wrong = array, np.asarray(array.is_null())
        else:
            flat = array.flatten()
            lengths = np.full(len(array), self.width)
            if not pa.types.is_fixed_size_list(array.type):
                lengths = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
            wrong = np.asarray(array.is_null()) | (lengths != self.width)
        if wrong.any() or flat.null_count:
            row = int(np.argmax(wrong)) if wrong.any() else int(np.argmax(np.asarray(flat.is_null()))) // self.width
            got = array[row].as_py()
            raise CheckpointError(
                f"{part.path}: row {first - part.first + row} of column {self._column} has "
                f"{'no value' if got is None else f'{len(got)} numbers' if isinstance(got, list) else got}; expected "
                f"{self.width} numbers"
            )
        values = np.require(flat.to_numpy(zero_copy_only=False), requirements="W")
        return torch.from_numpy(values).reshape(-1, self.width)


def _batches(path: Path, column: str, groups: list[int] | None, rows: int) -> Iterator[pa.RecordBatch]:
    file = open_file(path)
    if column not in file.schema_arrow.names:
        raise CheckpointError(f"{path} has no column {column}, which other parts of the table have; export it again")
    try:
        yield from file.iter_batches(rows, row_groups=groups, columns=[column], use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise CheckpointError(f"{path} is damaged ({error}); copy it again") from error
