"""Who is behind the numbers of a prepared log: raw ids of users and items, and which users training never met."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ctr_rec.batch.parquet import PREPARE_AGAIN, Frame, Place, open_parquet
from ctr_rec.errors import DataError
from ctr_rec.evaluate.predictions import Predictions
from ctr_rec.files import join_path
from ctr_rec.schema.manifest import LogManifest

ITEMS = ("items", "items.parquet")


def raw_ids(log: str, manifest: LogManifest, predictions: Predictions) -> dict[str, pa.Array]:
    """Columns `user_id` and `item_id` for each prediction, of the type that the raw log had.

    Raises:
        DataError: a file is missing or damaged, or a prediction names a user or an item that the log does not have.
    """
    files = sorted({group.file.rpartition("/")[2] for group in manifest.row_groups})
    paths = [join_path(log, "users", name) for name in files]
    columns = [open_parquet(path).read(columns=["user", "user_id"]) for path in paths]
    users = pa.concat_tables(columns) if columns else pa.table({"user": pa.array([], pa.int64()), "user_id": []})
    items = open_parquet(join_path(log, *ITEMS)).read(columns=["item_id"])
    numbers = users["user"].to_numpy()
    return {
        "user_id": _taken(users["user_id"], _rows_of(predictions.user, numbers, log)),
        "item_id": _taken(items["item_id"], _rows_of(predictions.item, np.arange(len(items)), log)),
    }


def new_users(log: str, manifest: LogManifest, since: int | None = None) -> npt.NDArray[np.bool_]:
    """Bool by user number: the user's first event lies after `since`, None for the end of the training range.

    Users without events are new.
    """
    new = np.ones(manifest.users, bool)
    for group in manifest.row_groups:
        path = join_path(log, group.file)
        frame = Frame(open_parquet(path), Place(path, group.index), ["user", "time"])
        times, offsets = frame.lists("time", np.int64)
        filled = np.diff(offsets) > 0
        first = times[offsets[:-1][filled]]
        new[frame.plain("user", np.int64)[filled]] = first > (manifest.split.train_end if since is None else since)
    return new


def _rows_of(wanted: npt.NDArray[np.int64], numbers: npt.NDArray[np.int64], log: str) -> npt.NDArray[np.int64]:
    size = int(max(numbers.max(initial=-1), wanted.max(initial=-1))) + 1
    row = np.full(size, -1, np.int64)
    row[numbers] = np.arange(len(numbers))
    rows = row[wanted]
    if len(rows) and rows.min() < 0:
        number = int(wanted[np.argmin(rows)])
        raise DataError(f"{log}: expected a raw id for number {number}, the log has none; {PREPARE_AGAIN}")
    return rows


def _taken(column: pa.ChunkedArray, rows: npt.NDArray[np.int64]) -> pa.Array:
    taken = column.take(pa.array(rows))
    return taken.combine_chunks() if isinstance(taken, pa.ChunkedArray) else taken
