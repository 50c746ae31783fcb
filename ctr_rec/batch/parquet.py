"""From Arrow list columns to NumPy, without a copy where types agree. Every complaint names column, file and row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ctr_rec.batch.columns import Array, Column, Int64, Ragged, offsets_of
from ctr_rec.errors import DataError
from ctr_rec.files import local_file
from ctr_rec.schema.log import Feature, Kind

PREPARE_AGAIN = "run `ctr-rec prepare` again"


def open_parquet(path: str) -> pq.ParquetFile:
    """Opens a file of a prepared log. Raises DataError when it is missing, empty, cut short or no Parquet."""
    local = local_file(path)
    try:
        return pq.ParquetFile(local, memory_map=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"{path}: expected a complete Parquet file, got {local.stat().st_size} bytes that are not one ({error}); "
            f"copy it again or {PREPARE_AGAIN}"
        ) from error


@dataclass(frozen=True)
class Place:
    """Where a value stands, for messages. row_group None: the whole file."""

    path: str
    row_group: int | None = None

    def __str__(self) -> str:
        return self.path if self.row_group is None else f"{self.path}, row group {self.row_group}"


class Frame:
    """Columns of row groups (or of a whole file), converted one by one and checked on the way.

    place: a file, or one row group of it. row_groups: several row groups of a file, in any order. One call decodes them
    below each other into one array per column, which costs no more than one after the other and saves joining them.
    """

    def __init__(self, file: pq.ParquetFile, place: Place, columns: list[str], row_groups: Sequence[int] = ()) -> None:
        self.place = place
        self._groups = list(row_groups) or ([] if place.row_group is None else [place.row_group])
        names = file.schema_arrow.names
        for column in columns:
            if column not in names:
                raise DataError(f"{place.path} has no column {column!r}; it has {', '.join(names)}; {PREPARE_AGAIN}")
        self._table = self._read(file, columns)
        self.num_rows = self._table.num_rows
        rows = [file.metadata.row_group(g).num_rows for g in self._groups] or [self.num_rows]
        self.first_rows = offsets_of(np.array(rows, np.int64))
        """Rows at which the row groups begin, and the end of the last: int64 [row groups + 1]."""

    def _read(self, file: pq.ParquetFile, columns: list[str]) -> pa.Table:
        try:
            return file.read_row_groups(self._groups, columns=columns) if self._groups else file.read(columns=columns)
        except (pa.ArrowException, OSError) as error:
            place = next((p for p in self._places() if _damaged(file, p, columns)), self.place)
            raise DataError(f"{place}: the data is damaged ({error}); copy it again or {PREPARE_AGAIN}") from error

    def _places(self) -> list[Place]:
        return [Place(self.place.path, g) for g in self._groups] or [self.place]

    def row(self, row: int) -> str:
        """Where a row stands: its file, its row group and its number there."""
        group = int(np.searchsorted(self.first_rows, row, side="right")) - 1
        return f"{self._places()[group]}, row {row - int(self.first_rows[group])}"

    def plain(self, name: str, dtype: type[np.generic]) -> Array:
        """One value per row."""
        return self._numpy(self._array(name), name, dtype)

    def strings(self, name: str) -> list[str]:
        return [str(v) for v in self._array(name).to_pylist()]

    def lists(self, name: str, dtype: type[np.generic]) -> tuple[Array, Int64]:
        """Values of a list column and the offsets of its rows. dtype np.integer: whole numbers as wide as stored."""
        values, offsets = self._unnest(self._array(name), name)
        return self._numpy(values, name, dtype), offsets

    def feature(self, feature: Feature, nested: bool) -> tuple[Column, Int64 | None]:
        """A feature as stored: ids int32, numbers and vectors float32. nested: a list per row, with offsets."""
        array, offsets = self._array(feature.name), None
        if nested:
            array, offsets = self._unnest(array, feature.name)
        if feature.kind is Kind.CATEGORIES:
            values, inner = self._unnest(array, feature.name)
            return Ragged(self._numpy(values, feature.name, np.int32), inner), offsets
        if feature.kind is Kind.VECTOR:
            return self._vectors(array, feature), offsets
        dtype = np.int32 if feature.kind is Kind.CATEGORY else np.float32
        return self._numpy(array, feature.name, dtype), offsets

    def refuse(self, bad: Array, offsets: Int64 | None, name: str, values: Array, expected: str) -> None:
        """Raises DataError at the first True of `bad` (one per value), naming the row it belongs to."""
        if not bad.any():
            return
        at = int(np.argmax(bad))
        row = at if offsets is None else int(np.searchsorted(offsets, at, side="right")) - 1
        where = "" if offsets is None else f", position {at - int(offsets[row])} in it"
        raise DataError(
            f"column {name!r} of {self.row(row)}{where}: expected {expected}, got {values[at]}; {PREPARE_AGAIN}"
        )

    def _array(self, name: str) -> pa.Array:
        column = self._table.column(name)
        array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array

    def _unnest(self, array: pa.Array, name: str) -> tuple[pa.Array, Int64]:
        if not isinstance(array, (pa.ListArray, pa.LargeListArray)):
            raise DataError(f"column {name!r} of {self.place.path}: expected a list, got {array.type}; {PREPARE_AGAIN}")
        self._no_null(array, name)
        offsets = array.offsets.to_numpy().astype(np.int64)
        if len(offsets) == 0:
            return array.values.slice(0, 0), np.zeros(1, np.int64)
        return array.values.slice(int(offsets[0]), int(offsets[-1] - offsets[0])), offsets - offsets[0]

    def _vectors(self, array: pa.Array, feature: Feature) -> Array:
        if pa.types.is_fixed_size_list(array.type):
            self._no_null(array, feature.name)
            values, dim = array.flatten(), array.type.list_size
        else:
            values, offsets = self._unnest(array, feature.name)
            lengths = np.diff(offsets)
            expected = f"a vector of {feature.dim} numbers"
            self.refuse(lengths != feature.dim, None, feature.name, lengths, expected)
            dim = feature.dim
        if dim != feature.dim:
            raise DataError(
                f"feature {feature.name!r} of {self.place.path}: the schema says dim {feature.dim}, the file has {dim}"
            )
        return self._numpy(values, feature.name, np.float32).reshape(-1, feature.dim or 1)

    def _no_null(self, array: pa.Array, name: str) -> None:
        if array.null_count:
            bad = array.is_null().to_numpy(zero_copy_only=False)
            self.refuse(bad, None, name, np.full(len(bad), "null"), "a value")

    def _numpy(self, array: pa.Array, name: str, dtype: type[np.generic]) -> Array:
        self._no_null(array, name)
        kinds = (pa.types.is_boolean,) if dtype is np.bool_ else (pa.types.is_integer, pa.types.is_floating)
        if not any(kind(array.type) for kind in kinds) or (
            np.issubdtype(dtype, np.integer) and not pa.types.is_integer(array.type)
        ):
            raise DataError(
                f"column {name!r} of {self.place.path}: expected {np.dtype(dtype).name}, got {array.type}; "
                f"{PREPARE_AGAIN}"
            )
        values = _flags(array) if dtype is np.bool_ else array.to_numpy(zero_copy_only=False)
        return values if dtype is np.integer else values.astype(dtype, copy=False)


def _damaged(file: pq.ParquetFile, place: Place, columns: list[str]) -> bool:
    """Whether one row group alone cannot be read."""
    try:
        file.read_row_groups([] if place.row_group is None else [place.row_group], columns=columns)
    except (pa.ArrowException, OSError):
        return True
    return False


def _flags(array: pa.Array) -> Array:
    """One byte per flag; NumPy opens Arrow's bits several times faster than Arrow does."""
    bits = array.buffers()[1]
    if len(array) == 0 or bits is None:
        return np.zeros(len(array), bool)
    end = array.offset + len(array)
    flags = np.unpackbits(np.frombuffer(bits, np.uint8), count=end, bitorder="little")
    return flags[array.offset :].view(np.bool_)


def same_rows(first: Int64, other: Int64) -> bool:
    """Whether two list columns have lists of the same lengths."""
    return len(first) == len(other) and bool((first == other).all())


def inner_offsets(column: Ragged, outer: Int64) -> Int64:
    """Offsets of the values of each outer row of a list of lists."""
    return offsets_of(np.diff(column.offsets[outer]))
