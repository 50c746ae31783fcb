"""Which raw ids a table's rows stand for, by the vocabularies of the log that a checkpoint was trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ctr_rec.checkpoint.manifest import Manifest
from ctr_rec.checkpoint.tensors import Contents
from ctr_rec.errors import CheckpointError, DataError
from ctr_rec.files import is_file, join_path, local_file
from ctr_rec.schema.manifest import load_manifest


@dataclass(frozen=True)
class RowIds:
    """ids: text. rows: int64, ascending, of the same length; no row 0, which all other ids share."""

    ids: pa.Array
    rows: np.ndarray

    def between(self, first: int, stop: int) -> tuple[np.ndarray, pa.Array]:
        """Rows of [first, stop) that have an id, once per id, and the ids."""
        low, high = np.searchsorted(self.rows, [first, stop])
        return self.rows[low:high], self.ids.slice(low, high - low)


def find_ids(
    manifest: Manifest | None, contents: Contents, log: str | None, say: Callable[[str], object]
) -> dict[str, RowIds]:
    """The vocabulary of each table that has one; a vocabulary (not the table) is held in memory.

    Args:
        log: prepared log; None looks for the one that the manifest names.

    Raises:
        CheckpointError: the log is not the one of the checkpoint, or a vocabulary does not fit its table.
        DataError: `log` is no prepared log.
    """
    found = log or (manifest.config.get("data", {}).get("log") if manifest is not None else None)
    if not found or (log is None and not is_file(join_path(found, "manifest.json"))):
        say(f"no prepared log at {found or 'hand'}: rows are written without ids; --log names the log that has them")
        return {}
    fingerprint = load_manifest(found).fingerprint
    if manifest is not None and manifest.data_fingerprint not in ("", fingerprint):
        sentence = (
            f"the checkpoint was trained on data with fingerprint {manifest.data_fingerprint}, the log {found} has "
            f"{fingerprint}: its ids stand for other rows"
        )
        if log is not None:
            raise CheckpointError(f"{sentence}; give --log the log of the run")
        say(f"{sentence}: rows are written without ids; --log names the log that has them")
        return {}
    return {t.name: ids for t in contents.tables if (ids := _read(found, t.name, t.rows)) is not None}


def _read(log: str, table: str, rows: int) -> RowIds | None:
    path = join_path(log, "vocabulary", f"{table}.parquet")
    if not is_file(path):
        return None
    stored = _columns(local_file(path))
    row = stored["row"].to_numpy().astype(np.int64)
    if len(row) and not 0 <= row.min() <= row.max() < rows:
        raise CheckpointError(
            f"{path} names rows {row.min()} to {row.max()}, the checkpoint's table {table} has {rows}: it is of "
            "another log; give --log the log of the run"
        )
    order = np.argsort(row, kind="stable")
    order = order[np.searchsorted(row[order], 1) :]
    ids = stored["id"].combine_chunks().take(pa.array(order))
    return RowIds(ids, row[order])


def _columns(path: Path) -> pa.Table:
    try:
        return pq.read_table(path, columns=["id", "row"])
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as a vocabulary ({error}); prepare the log again") from error
