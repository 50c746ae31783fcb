"""Ids to table rows, counted on the training range only.

With a vocabulary, ids of at least `min_count` training occurrences get rows 1, 2, ... by falling count, ties by the
id's text; all others share row 0. With `hash_rows`, row = 1 + hash64(id) mod hash_rows, where hash64 is the 8-byte
BLAKE2b digest of the id's UTF-8 text (integers in decimal), read as a little-endian unsigned integer: stated by
RFC 7693, the same on every machine and version.

A vocabulary that grows (prepare/grow.py) keeps every row; ids that are new in it get the rows behind the last one.
Files are sorted by row, row 0 last, so that a rank finds the ids of its own rows without reading the others.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from ctr_rec.schema.hashing import hash64, hashed_rows
from ctr_rec.schema.log import Vocabulary
from ctr_rec.schema.manifest import TableInfo

# The content of vocabulary/<table>.parquet that a fingerprint covers; `hash` beside it follows from `id`.
COLUMNS = ("id", "row", "count")


def partition_of(ids: pl.Series, partitions: int) -> npt.NDArray[np.int64]:
    """Partition of each id by the stated hash, computed once per distinct id."""
    if partitions == 1:
        return np.zeros(len(ids), np.int64)
    distinct = ids.unique()
    parts = (hash64(distinct.to_list()) % np.uint64(partitions)).astype(np.int64)
    known = pl.DataFrame({"id": distinct, "part": parts})
    return pl.DataFrame({"id": ids}).join(known, on="id", how="left", maintain_order="left")["part"].to_numpy()


class Counts:
    """Running (id, count) of one table; ids outside the training range are added with count 0."""

    def __init__(self) -> None:
        self._frame = pl.DataFrame(schema={"id": pl.String, "count": pl.Int64})

    def add(self, ids: pl.Series, weights: pl.Series) -> None:
        """Adds `weights` (training occurrences) to `ids`; both of equal length."""
        new = pl.DataFrame({"id": ids.cast(pl.String), "count": weights.cast(pl.Int64)})
        new = new.group_by("id").agg(pl.col("count").sum())
        self._frame = pl.concat([self._frame, new]).group_by("id").agg(pl.col("count").sum())

    def frame(self) -> pl.DataFrame:
        return self._frame


class Rows:
    """The finished vocabulary of one table: `frame` holds (id, row, count), `info` goes into the manifest.

    old: (id, row) of the vocabulary that this one grows from, without row 0; its ids keep their rows, also those that
    the new log never names.
    """

    def __init__(self, vocabulary: Vocabulary, counts: pl.DataFrame, old: pl.DataFrame | None = None) -> None:
        if vocabulary.hash_rows is None:
            self.frame = _counted_rows(vocabulary.min_count, counts, old)
            rows = int(self.frame["row"].max() or 0) + 1  # pyright: ignore[reportArgumentType]
        else:
            ordered = counts.sort(["count", "id"], descending=[True, False])
            hashed = hashed_rows(ordered["id"].to_list(), vocabulary.hash_rows)
            self.frame = ordered.with_columns(pl.Series("row", hashed, pl.Int32)).select("id", "row", "count")
            rows = vocabulary.hash_rows + 1
        total = int(self.frame["count"].sum())
        outside = int(self.frame.filter(pl.col("row") == 0)["count"].sum())
        share = outside / total if total else 0.0
        self.info = TableInfo(rows=rows, ids=self.frame.height, out_of_vocabulary_share=share)
        self._lookup = self.frame.select("id", "row")

    def encode(self, ids: pl.Series) -> npt.NDArray[np.int32]:
        """Row of each id, in order; every id must have been counted."""
        joined = pl.DataFrame({"id": ids.cast(pl.String)}).join(
            self._lookup, on="id", how="left", maintain_order="left"
        )
        assert joined["row"].null_count() == 0, "an id was encoded that was never counted"
        return joined["row"].to_numpy()

    def table(self) -> pa.Table:
        """Columns id string, row int32, count int64, hash uint64, as stored in vocabulary/<table>.parquet."""
        ids = self.frame["id"].to_list()
        arrays = [
            pa.array(ids, pa.string()),
            pa.array(self.frame["row"].to_numpy(), pa.int32()),
            pa.array(self.frame["count"].to_numpy(), pa.int64()),
            pa.array(hash64(ids), pa.uint64()),
        ]
        return pa.table(arrays, names=[*COLUMNS, "hash"])


def _counted_rows(min_count: int, counts: pl.DataFrame, old: pl.DataFrame | None) -> pl.DataFrame:
    """(id, row, count) by row, row 0 last: old rows as they are, then the new ids that are frequent enough."""
    known = pl.DataFrame(schema={"id": pl.String, "row": pl.Int32}) if old is None else old
    last = int(known["row"].max() or 0)  # pyright: ignore[reportArgumentType]
    every = counts.join(known, on="id", how="full", coalesce=True).with_columns(pl.col("count").fill_null(0))
    kept = every.filter(pl.col("row").is_not_null()).sort("row")
    fresh = every.filter(pl.col("row").is_null()).sort(["count", "id"], descending=[True, False])
    row = pl.when(pl.col("count") >= min_count).then(last + pl.int_range(1, pl.len() + 1)).otherwise(0)
    return pl.concat([kept, fresh.with_columns(row.cast(pl.Int32).alias("row"))]).select("id", "row", "count")


def vocabulary_path(log: Path, table: str) -> Path:
    return log / "vocabulary" / f"{table}.parquet"
