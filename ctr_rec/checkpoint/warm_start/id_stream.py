"""Ids as they lie in Parquet files, in batches: vocabularies, maps, the ids of a Parquet source, our own vocabulary.

Legend: B ids of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ctr_rec.checkpoint.warm_start.parquet import open_file
from ctr_rec.checkpoint.warm_start.rows import Int64
from ctr_rec.errors import CheckpointError

BATCH = 1 << 18


@dataclass(frozen=True)
class IdBatch:
    """ids: text [B]. rows: int64 [B], of the source's table. counts: int64 [B] or None. targets: text [B], of a map."""

    ids: pl.Series
    rows: Int64
    counts: Int64 | None = None
    targets: pl.Series | None = None


@dataclass(frozen=True)
class IdStream:
    """Ids with rows, read anew each time. where: file or folder, for messages."""

    where: str
    read: Callable[[], Iterator[IdBatch]]


def vocabulary_stream(path: Path, skip_row: int | None, rows: int, share: tuple[int, int] = (0, 1)) -> IdStream:
    """A Parquet file of (id, row[, count]). skip_row: the row that is no id's own. rows: of the table.

    share: (index, size): of `size` readers, each looks for ids that share a row in its own part of the rows.

    Raises (while reading):
        CheckpointError: other columns, a row outside the table, a row that two ids have, an absent value.
    """

    def read() -> Iterator[IdBatch]:
        file = open_file(path)
        names = file.schema_arrow.names
        if not {"id", "row"} <= set(names):
            raise CheckpointError(f"{path}: expected columns id, row and optionally count, got {', '.join(names)}")
        owners = np.zeros(rows // share[1] + 1, bool)
        for batch in _batches(file, path, ["id", "row", *(["count"] if "count" in names else [])]):
            ids, found = text_of(batch["id"], path), whole_numbers(batch["row"], path, "row")
            counts = whole_numbers(batch["count"], path, "count") if "count" in names else None
            keep = np.ones(len(found), bool) if skip_row is None else found != skip_row
            _check_range(found, rows, ids, path)
            _check_owner(owners, found[keep], share, path)
            if not keep.all():
                ids, found = ids.filter(pl.Series(keep)), found[keep]
                counts = None if counts is None else counts[keep]
            yield IdBatch(ids, found, counts)

    return IdStream(str(path), read)


def own_stream(files: Sequence[Path]) -> IdStream:
    """The `id` column of a Parquet source's files, numbered through."""

    def read() -> Iterator[IdBatch]:
        first = 0
        for path in files:
            file = open_file(path)
            names = file.schema_arrow.names
            for batch in _batches(file, path, ["id", *(["count"] if "count" in names else [])]):
                counts = whole_numbers(batch["count"], path, "count") if "count" in names else None
                yield IdBatch(text_of(batch["id"], path), np.arange(first, first + batch.num_rows), counts)
                first += batch.num_rows

    return IdStream(str(files[0].parent if len(files) > 1 else files[0]), read)


def map_columns(path: Path) -> str:
    """`source_row` or `source_id`, whichever a map has. Raises CheckpointError for any other columns."""
    names = open_file(path).schema_arrow.names
    for column in ("source_row", "source_id"):
        if set(names) == {"id", column}:
            return column
    raise CheckpointError(f"{path}: a map has columns id and source_row, or id and source_id; got {', '.join(names)}")


def map_stream(path: Path, rows: int) -> IdStream:
    """A Parquet map. rows: of the source's table, which every source_row must be one of."""
    column = map_columns(path)

    def read() -> Iterator[IdBatch]:
        for batch in _batches(open_file(path), path, ["id", column]):
            ids = text_of(batch["id"], path)
            if column == "source_id":
                yield IdBatch(ids, np.zeros(len(ids), np.int64), targets=text_of(batch[column], path))
                continue
            found = whole_numbers(batch[column], path, column)
            _check_range(found, rows, ids, path)
            yield IdBatch(ids, found)

    return IdStream(str(path), read)


def _batches(file: pq.ParquetFile, path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    try:
        yield from file.iter_batches(BATCH, columns=columns, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise CheckpointError(f"{path} is damaged ({error}); copy it again") from error


def text_of(column: pa.Array, path: Path) -> pl.Series:
    """Ids as text, integers in decimal. Raises CheckpointError for other types and for absent ids."""
    kind = column.type
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_dictionary)
    if not (pa.types.is_integer(kind) or any(is_text(kind) for is_text in texts)):
        raise CheckpointError(f"{path}: ids are {kind}; expected text or whole numbers")
    if column.null_count:
        raise CheckpointError(f"{path}: {column.null_count} ids are absent; remove these rows")
    found = pl.from_arrow(column)
    assert isinstance(found, pl.Series)
    return found.cast(pl.String)


def whole_numbers(column: pa.Array, path: Path, name: str) -> Int64:
    if not pa.types.is_integer(column.type) or column.null_count:
        raise CheckpointError(
            f"{path}: column {name} is {column.type} with {column.null_count} absent values; expected whole numbers"
        )
    return column.to_numpy(zero_copy_only=False).astype(np.int64, copy=False)


def _check_range(found: Int64, rows: int, ids: pl.Series, path: Path) -> None:
    if len(found) and (found.min() < 0 or found.max() >= rows):
        at = int(np.argmax((found < 0) | (found >= rows)))
        raise CheckpointError(
            f"{path}: id {ids[at]!r} has row {found[at]}, but the source's table has rows 0 to {rows - 1}: it belongs "
            "to another table, or to another version of it"
        )


def _check_owner(owners: np.ndarray, found: Int64, share: tuple[int, int], path: Path) -> None:
    """One row, one id: a row that several ids share is no id's own."""
    index, size = share
    mine = found if size == 1 else found[found % size == index] // size
    ascending = bool((np.diff(mine) > 0).all())
    if owners[mine].any() or not (ascending or len(np.unique(mine)) == len(mine)):
        rows, counts = np.unique(mine, return_counts=True)
        row = int(rows[(counts > 1) | owners[rows]][0]) * size + index
        raise CheckpointError(
            f"{path}: two ids have row {row}; if it is the row of all others, set out_of_vocabulary_row={row}, and if "
            "the table is hashed, say so with kind=hash"
        )
    owners[mine] = True
