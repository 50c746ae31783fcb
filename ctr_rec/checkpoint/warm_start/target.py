"""Our side of a warm start: a table, and the ids of those of its rows that this rank holds.

Legend: O ids of ours, R rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from ctr_rec.checkpoint.warm_start.id_stream import BATCH, text_of, whole_numbers
from ctr_rec.checkpoint.warm_start.parquet import open_file
from ctr_rec.checkpoint.warm_start.rows import Int64
from ctr_rec.errors import DataError
from ctr_rec.files import join_path, local_file
from ctr_rec.schema.manifest import LogManifest
from ctr_rec.schema.table import SparseSpec

# Whoever holds the last row also looks for rows that the table does not have.
BEYOND = 1 << 62


@dataclass(frozen=True)
class TargetTable:
    """hash_rows: of a hashed table, else None. vocabulary: file of (id, row, count)."""

    name: str
    rows: int
    dim: int
    init_std: float
    hash_rows: int | None
    vocabulary: Path


@dataclass(frozen=True)
class TargetIds:
    """Ids whose row lies in [low, high), row 0 aside. rows, counts: int64 [O]. unknown: training count of row 0.

    ids: text [O], or none of it where nobody asks for it.
    """

    ids: pl.Series
    rows: Int64
    counts: Int64
    low: int
    high: int
    unknown: int


def target_tables(spec: SparseSpec, manifest: LogManifest, log: str) -> list[TargetTable]:
    """The tables of a model. Raises DataError when the log lacks a vocabulary."""
    hashed = {v.table: v.hash_rows for v in manifest.data_schema.vocabularies}
    return [
        TargetTable(t.name, t.rows, t.dim, t.init_std, hashed[t.name], vocabulary_file(log, t.name))
        for t in spec.tables
    ]


def vocabulary_file(log: str, table: str) -> Path:
    """The vocabulary of a prepared log's table; hashed tables have one too, with the ids that were seen."""
    return local_file(join_path(log, "vocabulary", f"{table}.parquet"))


def target_ids(table: TargetTable, low: int, high: int, text: bool = True) -> TargetIds:
    """Reads our vocabulary; row groups outside [low, high) are passed over by their statistics.

    Raises:
        DataError: no ids with rows, or a row outside the table.
    """
    file = open_file(table.vocabulary)
    if not {"id", "row", "count"} <= set(file.schema_arrow.names):
        raise DataError(f"{table.vocabulary}: expected columns id, row, count; prepare the log again")
    ids, rows, counts, unknown = [], [], [], 0
    for batch in file.iter_batches(
        BATCH,
        row_groups=_groups(file, low, high if high < table.rows else BEYOND),
        columns=["id", "row", "count"] if text else ["row", "count"],
        use_threads=False,
    ):
        found = whole_numbers(batch["row"], table.vocabulary, "row")
        count = whole_numbers(batch["count"], table.vocabulary, "count")
        if len(found) and found.max() >= table.rows:
            raise DataError(f"{table.vocabulary}: row {found.max()} in a table of {table.rows}; prepare the log again")
        unknown += int(count[found == 0].sum()) if low == 0 else 0
        mine = (found >= max(low, 1)) & (found < high)
        if text:
            found_ids = text_of(batch["id"], table.vocabulary)
            ids.append(found_ids if mine.all() else found_ids.filter(pl.Series(mine)))
        rows.append(found[mine])
        counts.append(count[mine])
    texts = pl.concat(ids) if ids else pl.Series([], dtype=pl.String)
    none = np.zeros(0, np.int64)
    return TargetIds(texts, np.concatenate([none, *rows]), np.concatenate([none, *counts]), low, high, unknown)


def _groups(file: pq.ParquetFile, low: int, high: int) -> list[int]:
    """Row groups that may hold a row of [low, high)."""
    column = file.schema_arrow.names.index("row")
    kept = []
    for group in range(file.metadata.num_row_groups):
        statistics = file.metadata.row_group(group).column(column).statistics
        if statistics is None or not statistics.has_min_max or (statistics.min < high and statistics.max >= low):
            kept.append(group)
    return kept
