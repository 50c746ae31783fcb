"""First pass: the raw frames to disk, partitioned by user hash, so that memory is bounded by one partition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ctr_rec.prepare.progress import Progress
from ctr_rec.prepare.raw import unreadable
from ctr_rec.prepare.vocabulary import partition_of

BUFFERED_ROWS = 32_768  # per partition, before they are written as one row group


def sink(frame: pl.LazyFrame, path: Path, what: str, log: str) -> int:
    """Streams a lazy frame into a Parquet file; returns its rows. Raises DataError where the source is unreadable."""
    try:
        frame.sink_parquet(path, compression="lz4", row_group_size=BUFFERED_ROWS)
    except pl.exceptions.PolarsError as error:
        raise unreadable(error, what, log) from error
    return pq.ParquetFile(path).metadata.num_rows


def scatter(source: Path, key: str, paths: list[Path], progress: Progress) -> None:
    """Distributes the rows of `source` over `paths` by the stated hash of `key`, keeping their order; removes it."""
    if len(paths) == 1:
        source.rename(paths[0])
        return
    file = pq.ParquetFile(source)
    writers = [pq.ParquetWriter(p, file.schema_arrow, compression="lz4") for p in paths]
    waiting: list[list[pa.Table]] = [[] for _ in paths]
    try:
        with progress.stage(f"partition {key.removesuffix('_id')}s", file.metadata.num_rows) as advance:
            for batch in file.iter_batches(batch_size=BUFFERED_ROWS):
                table = pa.Table.from_batches([batch])
                ids = pl.Series(key, pl.from_arrow(table.select([key])).get_column(key))  # pyright: ignore[reportAttributeAccessIssue]
                part = partition_of(ids, len(paths))
                order = np.argsort(part, kind="stable")
                sorted_table = table.take(pa.array(order))
                ends = np.searchsorted(part[order], np.arange(len(paths) + 1))
                for p in np.unique(part):
                    waiting[p].append(sorted_table.slice(ends[p], ends[p + 1] - ends[p]))
                    if sum(t.num_rows for t in waiting[p]) >= BUFFERED_ROWS:
                        writers[p].write_table(pa.concat_tables(waiting[p]))
                        waiting[p] = []
                advance(table.num_rows)
        for writer, rest in zip(writers, waiting, strict=True):
            if rest:
                writer.write_table(pa.concat_tables(rest))
    finally:
        for writer in writers:
            writer.close()
    source.unlink()
