"""What stands for a table's rows when their initial values are drawn: the ids, not the rows they happen to have."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from ctr_rec.batch.parquet import PREPARE_AGAIN, Frame, Place, open_parquet
from ctr_rec.errors import DataError
from ctr_rec.files import join_path
from ctr_rec.schema.hashing import hash64
from ctr_rec.schema.manifest import LogManifest

# Row 0 of every table: what is out of the vocabulary has no id.
OUT_OF_VOCABULARY = 0
UInt64 = npt.NDArray[np.uint64]


class VocabularyNumbers:
    """The number of a row: the stated 64-bit hash of its id, 0 for row 0, the row itself in tables with `hash_rows`.

    So an id starts alike in every log, whatever its row, the plan and the number of ranks. Row r lies at position
    r - 1 of the table's vocabulary: only row groups that hold the asked rows are read, and the last one is kept, so
    that who asks slice by slice reads each once. Memory is one row group's, whatever the size of the table.
    """

    def __init__(self, log: str, manifest: LogManifest) -> None:
        self._log = log
        self._rows = {name: info.rows for name, info in manifest.tables.items()}
        self._hashed = {v.table for v in manifest.data_schema.vocabularies if v.hash_rows is not None}
        self._files: dict[str, pq.ParquetFile] = {}
        self._kept: tuple[str, int, UInt64] | None = None

    def __call__(self, table: str, first: int, stop: int) -> UInt64:
        """Numbers of the rows first to stop - 1. uint64 [stop - first].

        Raises:
            DataError: the vocabulary is missing, damaged, shorter than the table, or not sorted by row.
        """
        assert 0 <= first <= stop <= self._rows[table], f"rows {first} to {stop} of table {table}"
        if table in self._hashed:
            return np.arange(first, stop, dtype=np.uint64)
        out = np.full(stop - first, OUT_OF_VOCABULARY, np.uint64)
        file, begin = self._file(table), 0
        for index in range(file.num_row_groups):
            end = begin + file.metadata.row_group(index).num_rows
            low, high = max(begin + 1, first), min(end + 1, stop)
            if low < high:
                out[low - first : high - first] = self._group(table, index, begin)[low - 1 - begin : high - 1 - begin]
            begin = end
        return out

    def _file(self, table: str) -> pq.ParquetFile:
        if table not in self._files:
            file = open_parquet(self._path(table))
            if file.metadata.num_rows < self._rows[table] - 1:
                raise DataError(
                    f"{self._path(table)}: the manifest says {self._rows[table]} rows, the file has "
                    f"{file.metadata.num_rows} ids; {PREPARE_AGAIN}"
                )
            self._files[table] = file
        return self._files[table]

    def _group(self, table: str, index: int, begin: int) -> UInt64:
        """Hashes of the ids in one row group, which begins at position `begin` of the file."""
        if self._kept is not None and self._kept[:2] == (table, index):
            return self._kept[2]
        file = self._file(table)
        stored = "hash" in file.schema_arrow.names  # logs from before it was stored have the ids alone
        frame = Frame(file, Place(self._path(table), index), ["row", "hash" if stored else "id"])
        row = frame.plain("row", np.int64)
        expected = np.arange(begin + 1, begin + 1 + len(row))
        wrong = (row != expected) & (expected < self._rows[table])
        if wrong.any():
            at = int(np.argmax(wrong))
            raise DataError(
                f"column 'row' of {frame.place}, row {at}: expected {expected[at]} (a vocabulary is sorted by row, row "
                f"0 last), got {row[at]}; {PREPARE_AGAIN}"
            )
        hashes = frame.plain("hash", np.uint64) if stored else hash64(frame.strings("id"))
        self._kept = (table, index, hashes)
        return hashes

    def _path(self, table: str) -> str:
        return join_path(self._log, "vocabulary", f"{table}.parquet")
