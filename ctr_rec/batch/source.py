"""A prepared log on disk: row groups as NumPy columns, checked at the door, numbers standardised.

TorchRec turns an id outside its table into row 0 without a word, so ids are checked here, where file and row are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from ctr_rec.batch.columns import Array, Column, Int64, Ragged, join, part
from ctr_rec.batch.parquet import PREPARE_AGAIN, Frame, Place, inner_offsets, open_parquet, same_rows
from ctr_rec.errors import DataError, SchemaError
from ctr_rec.files import join_path
from ctr_rec.schema.log import Feature, Kind, Side
from ctr_rec.schema.manifest import MANIFEST, SPLITS, LogManifest, RowGroup, Split
from ctr_rec.schema.table import SparseSpec


@dataclass(frozen=True)
class Slices:
    """User slices: one row group, or several joined. U users, T events, N impressions of the split.

    user: int64 [U], user numbers. first_event: int64 [U], number of each user's first event in the log.
    offsets: int64 [U + 1]. time: int64 [T]. item: int32 or as stored [T]. action: int16 [T].
    own: int64 [N], position of each impression among the events. request_time: int64 [N]. label: int8 [N].
    events [T], counters [N], users [U]: standardised, by name.
    """

    user: Int64
    first_event: Int64
    offsets: Int64
    time: Int64
    item: Array
    action: Array
    own: Int64
    request_time: Int64
    label: Array
    events: dict[str, Column]
    counters: dict[str, Array]
    users: dict[str, Column]


def join_slices(parts: Sequence[Slices]) -> Slices:
    """Users of several row groups, one after the other."""
    if len(parts) == 1:
        return parts[0]
    shifts = np.cumsum([0] + [len(p.time) for p in parts])[:-1]
    offsets = [p.offsets[1:] + shift for p, shift in zip(parts, shifts, strict=True)]
    return Slices(
        user=np.concatenate([p.user for p in parts]),
        first_event=np.concatenate([p.first_event for p in parts]),
        offsets=np.concatenate([np.zeros(1, np.int64), *offsets]),
        time=np.concatenate([p.time for p in parts]),
        item=np.concatenate([p.item for p in parts]),
        action=np.concatenate([p.action for p in parts]),
        own=np.concatenate([p.own + shift for p, shift in zip(parts, shifts, strict=True)]),
        request_time=np.concatenate([p.request_time for p in parts]),
        label=np.concatenate([p.label for p in parts]),
        events={name: join([p.events[name] for p in parts]) for name in parts[0].events},
        counters=_join_counters([p.counters for p in parts]),
        users={name: join([p.users[name] for p in parts]) for name in parts[0].users},
    )


def _join_counters(parts: Sequence[dict[str, Array]]) -> dict[str, Array]:
    """Counters below each other, all in one allocation: large ones get large pages, whose first use is far cheaper."""
    lengths = [len(next(iter(p.values()), ())) for p in parts]
    block = np.empty((len(parts[0]), sum(lengths)), np.float32)
    for name, row in zip(parts[0], block, strict=True):
        np.concatenate([p[name] for p in parts], out=row)
    return dict(zip(parts[0], block, strict=True))


def _at(every: Array, own: Int64) -> Array:
    """Values at ascending distinct positions; all of them without a copy."""
    return every if len(own) == len(every) else every.take(own)


def in_split(request_time: Int64, split: Split, name: str) -> npt.NDArray[np.bool_]:
    """Whether a request time lies in the range of a split. bool [T]."""
    return split.holds(SPLITS.index(name), request_time)


class Source:
    """Reads the parts of a log that one model needs."""

    def __init__(self, folder: str, manifest: LogManifest, spec: SparseSpec, label: str, split: str) -> None:
        self.folder = folder
        self.manifest = manifest
        self.spec = spec
        self.label = f"label_{label}"
        self.split = split
        self._files: dict[str, pq.ParquetFile] = {}
        self._first_user: dict[tuple[str, int], int] = {}
        seen: dict[str, int] = {}
        for group in manifest.row_groups:
            self._first_user[group.file, group.index] = seen.get(group.file, 0)
            seen[group.file] = seen.get(group.file, 0) + group.users
        check_spec(manifest, spec)

    def read(self, group: RowGroup) -> Slices:
        """One row group. Raises DataError for whatever is not as the schema and the manifest say."""
        path = join_path(self.folder, group.file)
        file = self._open(path)
        if group.index >= file.num_row_groups:
            raise DataError(
                f"{path}: the manifest names row group {group.index}, the file has {file.num_row_groups}; "
                f"{PREPARE_AGAIN}"
            )
        columns = ["user", "time", "request_time", "item", "impression", "action", self.label]
        columns += [f.name for f in self.spec.event] + list(self.spec.counters)
        frame = Frame(file, Place(path, group.index), columns)
        time, offsets = frame.lists("time", np.int64)
        if (frame.num_rows, len(time)) != (group.users, group.events):
            raise DataError(
                f"{frame.place}: the manifest says {group.users} users and {group.events} events, the file has "
                f"{frame.num_rows} and {len(time)}; {PREPARE_AGAIN}"
            )
        request_time = self._list(frame, "request_time", np.int64, offsets)
        self._in_order(frame, time, request_time, offsets)
        impression = self._list(frame, "impression", np.bool_, offsets)
        own = self._own(frame, group, impression, request_time)
        slices = Slices(
            user=frame.plain("user", np.int64),
            first_event=offsets[:-1] + group.first_event,
            offsets=offsets,
            time=time,
            item=self._list(frame, "item", np.integer, offsets),
            action=self._list(frame, "action", np.int16, offsets),
            own=own,
            request_time=_at(request_time, own),
            label=self._label(frame, offsets, own),
            events={f.name: self._event_feature(frame, f, offsets) for f in self.spec.event},
            counters={c: self._counter(frame, c, offsets, own) for c in self.spec.counters},
            users=self._users(group, frame),
        )
        self._within(frame, "item", slices.item, offsets, self.manifest.items, "an item number")
        self._within(frame, "action", slices.action, offsets, self.spec.num_actions, "an action code")
        return slices

    def _own(self, frame: Frame, group: RowGroup, impression: Array, request_time: Int64) -> Int64:
        """Positions of the split's impressions; as many as the manifest says, or batches would not come out even."""
        own = np.flatnonzero(impression & in_split(request_time, self.manifest.split, self.split))
        expected = group.impressions[SPLITS.index(self.split)]
        if len(own) != expected:
            raise DataError(
                f"{frame.place}: the manifest says {expected} impressions in split {self.split!r}, the file has "
                f"{len(own)}; {PREPARE_AGAIN}"
            )
        return own

    def _label(self, frame: Frame, offsets: Int64, own: Int64) -> Array:
        every = self._list(frame, self.label, np.int8, offsets)
        label = _at(every, own)
        if len(label) and not (label.min() >= 0 and label.max() <= 1):
            bad = np.zeros(len(every), bool)
            bad[own] = (label != 0) & (label != 1)
            frame.refuse(bad, offsets, self.label, every, "0 or 1 for an impression")
        return label

    def items(self) -> dict[str, Column]:
        """Item attributes by name, one row per item number."""
        path = join_path(self.folder, "items", "items.parquet")
        names = [f.name for f in self.spec.item]
        file = self._open(path)
        if file.metadata.num_rows != self.manifest.items:
            raise DataError(
                f"{path}: the manifest says {self.manifest.items} items, the file has {file.metadata.num_rows}; "
                f"{PREPARE_AGAIN}"
            )
        if not names:
            return {}
        frame = Frame(file, Place(path), names)
        return {f.name: self._feature(frame, f, nested=False)[0] for f in self.spec.item}

    def _open(self, path: str) -> pq.ParquetFile:
        if path not in self._files:
            self._files[path] = open_parquet(path)
        return self._files[path]

    def _list(self, frame: Frame, name: str, dtype: type[np.generic], offsets: Int64) -> Array:
        values, own = frame.lists(name, dtype)
        self._same(frame, name, own, offsets)
        return values

    def _same(self, frame: Frame, name: str, own: Int64, offsets: Int64) -> None:
        if not same_rows(own, offsets):
            lengths, expected = np.diff(own), np.diff(offsets)
            row = int(np.argmax(lengths != expected))
            raise DataError(
                f"column {name!r} of {frame.place}, row {row}: expected {expected[row]} values as in column 'time', "
                f"got {lengths[row]}; {PREPARE_AGAIN}"
            )

    def _event_feature(self, frame: Frame, feature: Feature, offsets: Int64) -> Column:
        column, own = self._feature(frame, feature, nested=True)
        assert own is not None
        self._same(frame, feature.name, own, offsets)
        return column

    def _feature(self, frame: Frame, feature: Feature, nested: bool) -> tuple[Column, Int64 | None]:
        column, offsets = frame.feature(feature, nested)
        if isinstance(column, Ragged):
            inner = column.offsets if offsets is None else inner_offsets(column, offsets)
            self._ids(frame, feature, column.values, inner)
        elif feature.table is not None:
            self._ids(frame, feature, column, offsets)
        elif feature.kind is Kind.VECTOR:
            bad = ~np.asarray(np.isfinite(column).all(axis=1))
            frame.refuse(bad, offsets, feature.name, column, "finite numbers")
        else:
            column = self._standard(frame, feature.name, column, offsets, feature.log1p)
        return column, offsets

    def _ids(self, frame: Frame, feature: Feature, values: Array, offsets: Int64 | None) -> None:
        rows = self.manifest.tables[feature.table or ""].rows
        if len(values) and not (values.min() >= 0 and values.max() < rows):
            bad = (values < 0) | (values >= rows)
            expected = f"a row of table {feature.table!r}, 0 to {rows - 1}"
            frame.refuse(bad, offsets, feature.name, values, expected)

    def _counter(self, frame: Frame, name: str, offsets: Int64, own: Int64) -> Array:
        every = self._list(frame, name, np.float32, offsets)
        return self._standard(frame, name, every, offsets, log1p=name.endswith("_count"), own=own)

    def _standard(
        self, frame: Frame, name: str, every: Array, offsets: Int64 | None, log1p: bool, own: Int64 | None = None
    ) -> Array:
        """Standardised by the training range, at the positions `own` where given."""
        values = every if own is None else _at(every, own)
        least = -1.0 if log1p else -np.inf
        if len(values) and not (values.min() > least and values.max() < np.inf):  # not a number fails both
            bad = np.zeros(len(every), bool)
            bad[slice(None) if own is None else own] = ~(np.isfinite(values) & (values > least))
            frame.refuse(bad, offsets, name, every, "a number above -1 (log1p)" if log1p else "a finite number")
        info = self.manifest.numbers.get(name)
        if info is None:
            raise DataError(
                f"{join_path(self.folder, MANIFEST)} has no mean and deviation of {name!r}; {PREPARE_AGAIN}"
            )
        scale = np.float32(1.0 / info.std if info.std > 0 else 1.0)
        values = np.log1p(values) if log1p else values
        standard = np.subtract(values, np.float32(info.mean), out=values if log1p else None)
        return np.multiply(standard, scale, out=standard)

    def _users(self, group: RowGroup, events: Frame) -> dict[str, Column]:
        """Profiles of the row group's users: the users file has the same rows, its row groups may differ."""
        if not self.spec.user:
            return {}
        path = join_path(self.folder, "users", group.file.rpartition("/")[2])
        file = self._open(path)
        first = self._first_user[group.file, group.index]
        pieces: dict[str, list[Column]] = {f.name: [] for f in self.spec.user}
        numbers, at = [], 0
        for index in range(file.num_row_groups):
            rows = file.metadata.row_group(index).num_rows
            lo, hi = max(first - at, 0), min(first + group.users - at, rows)
            at += rows
            if lo >= hi:
                continue
            frame = Frame(file, Place(path, index), ["user", *pieces])
            numbers.append(frame.plain("user", np.int64)[lo:hi])
            for f in self.spec.user:
                pieces[f.name].append(part(self._feature(frame, f, nested=False)[0], lo, hi))
        found = np.concatenate([np.zeros(0, np.int64), *numbers])
        if not np.array_equal(found, events.plain("user", np.int64)):
            raise DataError(f"{path} must have the same users in the same order as {events.place}; {PREPARE_AGAIN}")
        return {name: join(columns) for name, columns in pieces.items()}

    def _in_order(self, frame: Frame, time: Int64, request_time: Int64, offsets: Int64) -> None:
        if (time[1:] < time[:-1]).any():
            back = np.zeros(len(time), bool)
            np.less(time[1:], time[:-1], out=back[1:])
            starts = offsets[:-1]
            back[starts[starts < len(time)]] = False
            frame.refuse(back, offsets, "time", time, "times that do not go back")
        frame.refuse(request_time > time, offsets, "request_time", request_time, "at most its time")

    def _within(self, frame: Frame, name: str, values: Array, offsets: Int64, size: int, what: str) -> None:
        if len(values) and not (values.min() >= 0 and values.max() < size):
            bad = (values < 0) | (values >= size)
            frame.refuse(bad, offsets, name, values, f"{what}, 0 to {size - 1}")


def check_spec(manifest: LogManifest, spec: SparseSpec) -> None:
    """Refuses a log that is not the one the model was made for: kinds, tables and their sizes.

    Raises:
        SchemaError: names the feature or table, what the model expects and what the log has.
    """
    schema = manifest.data_schema
    for side, features in ((Side.USER, spec.user), (Side.ITEM, spec.item), (Side.EVENT, spec.event)):
        for wanted in features:
            found = schema.feature(wanted.name)
            if found != wanted:
                raise SchemaError(
                    f"feature {wanted.name!r}: the model was made for {wanted.model_dump(mode='json')}, the log "
                    f"{schema.name!r} has {found.model_dump(mode='json')}; use the model's own log"
                )
            assert found.side is side
    for table in spec.tables:
        info = manifest.tables.get(table.name)
        rows = info.rows if info is not None else 0
        if rows != table.rows:
            raise SchemaError(
                f"table {table.name!r}: the model has {table.rows} rows, the log {schema.name!r} has {rows}; "
                "use the model's own log, or prepare this one with the model's vocabulary"
            )
    if len(schema.actions) != spec.num_actions:
        raise SchemaError(
            f"the model knows {spec.num_actions} actions, the log {schema.name!r} has {len(schema.actions)}"
        )
