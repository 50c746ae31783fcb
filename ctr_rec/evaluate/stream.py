"""A prepared log as flat columns, a row per event: what counters are counted on. Reads only the columns it needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ctr_rec.batch.columns import Array, Column, Int64
from ctr_rec.batch.parquet import PREPARE_AGAIN, Frame, Place, open_parquet
from ctr_rec.batch.visibility import impression_ends
from ctr_rec.errors import ConfigError, DataError
from ctr_rec.files import join_path
from ctr_rec.schema.log import Kind, Side
from ctr_rec.schema.manifest import SPLITS, LogManifest, RowGroup

_LISTS: dict[str, type[np.generic]] = {
    "time": np.int64,
    "request_time": np.int64,
    "item": np.int64,
    "impression": np.bool_,
}


@dataclass(frozen=True)
class EventStream:
    """E events of all users, in the log's order.

    event_id: the impression's id in predictions. user, item: numbers. label: -1 where the event is no impression.
    history_length: events of the user that the event may see. split: 0 train, 1 valid, 2 test by request time, -1
    for what no split reads and for events that are no impression.
    """

    event_id: Int64
    user: Int64
    item: Int64
    known_at: Int64
    request_time: Int64
    label: npt.NDArray[np.int8]
    history_length: Int64
    split: npt.NDArray[np.int64]

    def rows(self, split: str) -> Int64:
        """Positions of the impressions of a split."""
        return np.flatnonzero(self.split == SPLITS.index(split))


def read_stream(log: str, manifest: LogManifest, label: str) -> EventStream:
    """All events of a log. About 70 bytes of memory per event.

    Raises:
        ConfigError: the log has no such label. DataError: a file is missing, damaged or not what the schema says, or an
        impression's label is neither 0 nor 1 (column, file and row are named).
    """
    labels = manifest.data_schema.labels
    if label not in labels:
        raise ConfigError(f"label: expected one of {', '.join(labels)}, got {label!r}")
    parts = [_read(log, group, label, manifest.data_schema.action_delay) for group in manifest.row_groups]
    if not parts:
        raise DataError(f"{log}: expected events, got no row group; {PREPARE_AGAIN}")
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    impression = columns.pop("impression")
    columns["label"] = np.where(impression, columns["label"], -1).astype(np.int8)
    return EventStream(split=_splits(columns["request_time"], impression, manifest), **columns)


def item_categories(log: str, manifest: LogManifest) -> dict[str, Column]:
    """Table rows of each item's categories, by feature name. A feature that names the item itself is left out."""
    path = join_path(log, "items", "items.parquet")
    features = [f for f in manifest.data_schema.of(Side.ITEM) if f.kind in (Kind.CATEGORY, Kind.CATEGORIES)]
    frame = Frame(open_parquet(path), Place(path), [f.name for f in features])
    columns = {f.name: frame.feature(f, nested=False)[0] for f in features}
    return {name: column for name, column in columns.items() if not _is_identity(column)}


def _is_identity(column: Column) -> bool:
    """Nearly every item has a value of its own; rare items share the row of unknown ids."""
    if not isinstance(column, np.ndarray):
        return False
    known = column[column > 0]
    return len(known) > 1 and len(np.unique(known)) == len(known)


def _read(log: str, group: RowGroup, label: str, action_delay: int) -> dict[str, Array]:
    path = join_path(log, group.file)
    name = f"label_{label}"
    frame = Frame(open_parquet(path), Place(path, group.index), ["user", *_LISTS, name])
    time, offsets = frame.lists("time", np.int64)
    columns = {key: _same(frame, key, dtype, offsets) for key, dtype in _LISTS.items() if key != "time"}
    columns["label"] = _same(frame, name, np.int8, offsets)
    wrong = columns["impression"] & (columns["label"] != 0) & (columns["label"] != 1)
    frame.refuse(wrong, offsets, name, columns["label"], "0 or 1 for an impression")
    row = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    ends = impression_ends(time + action_delay, offsets, row, columns["request_time"])
    return {
        **columns,
        "event_id": np.arange(group.first_event, group.first_event + len(time)),
        "user": frame.plain("user", np.int64)[row],
        "known_at": time + action_delay,
        "history_length": ends - offsets[row],
    }


def _same(frame: Frame, name: str, dtype: type[np.generic], offsets: Int64) -> Array:
    values, own = frame.lists(name, dtype)
    if not np.array_equal(own, offsets):
        raise DataError(
            f"column {name!r} of {frame.place}: expected lists as long as those of 'time', got {len(values)} values "
            f"for {int(offsets[-1])}; {PREPARE_AGAIN}"
        )
    return values


def _splits(request_time: Int64, impression: npt.NDArray[np.bool_], manifest: LogManifest) -> npt.NDArray[np.int64]:
    number = manifest.split.number(request_time)
    return np.where(impression & (number >= 0) & (number < len(SPLITS)), number, -1).astype(np.int64)


def first_times(log: str) -> Int64:
    """Time of the first event of each item, by item number."""
    path = join_path(log, "items", "items.parquet")
    return Frame(open_parquet(path), Place(path), ["first_time"]).plain("first_time", np.int64)
