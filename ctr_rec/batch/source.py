"""A prepared log on disk: row groups as NumPy columns, checked at the door, numbers standardised.

TorchRec turns an id outside its table into row 0 without a word, so ids are checked here, where file and row are known.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from ctr_rec.batch.columns import Array, Column, Int64, Ragged, join, offsets_of, ranges, take
from ctr_rec.batch.memory import Memory
from ctr_rec.batch.parquet import PREPARE_AGAIN, Frame, Place, inner_offsets, open_parquet, same_rows
from ctr_rec.batch.standard import Counter, Standard
from ctr_rec.errors import DataError, SchemaError
from ctr_rec.files import join_path
from ctr_rec.schema.log import Feature, Kind, Side
from ctr_rec.schema.manifest import MANIFEST, SPLITS, LogManifest, RowGroup, Split
from ctr_rec.schema.table import SparseSpec


@dataclass(frozen=True)
class Slices:
    """User slices of one or several row groups. U users, T events, N impressions of the split.

    user: int64 [U], user numbers. first_event: int64 [U], number of each user's first event in the log.
    offsets: int64 [U + 1]. time, request_time: int64 [T]. item: int32 or as stored [T]. action: int16 [T].
    label: int8 [T], 0 or 1 at the split's impressions. own: int64 [N], position of each impression among the events.
    events [T], users [U]: standardised, by name. counters [T]: by name; numbers at the split's impressions.
    Columns may be Arrow's own memory: read only.
    """

    user: Int64
    first_event: Int64
    offsets: Int64
    time: Int64
    request_time: Int64
    item: Array
    action: Array
    label: Array
    own: Int64
    events: dict[str, Column]
    counters: dict[str, Counter]
    users: dict[str, Column]


def join_slices(parts: Sequence[Slices]) -> Slices:
    """Users of several files, one after the other."""
    if len(parts) == 1:
        return parts[0]
    shifts = np.cumsum([0] + [len(p.time) for p in parts])[:-1]
    offsets = [p.offsets[1:] + shift for p, shift in zip(parts, shifts, strict=True)]
    plain = ("user", "first_event", "time", "request_time", "item", "action", "label")
    return Slices(
        **{name: np.concatenate([getattr(p, name) for p in parts]) for name in plain},
        offsets=np.concatenate([np.zeros(1, np.int64), *offsets]),
        own=np.concatenate([p.own + shift for p, shift in zip(parts, shifts, strict=True)]),
        events={name: join([p.events[name] for p in parts]) for name in parts[0].events},
        counters={
            name: Counter(np.concatenate([p.counters[name].stored for p in parts]), first.standard)
            for name, first in parts[0].counters.items()
        },
        users={name: join([p.users[name] for p in parts]) for name in parts[0].users},
    )


def in_split(request_time: Int64, split: Split, name: str) -> npt.NDArray[np.bool_]:
    """Whether a request time lies in the range of a split. bool [T]."""
    return split.holds(SPLITS.index(name), request_time)


class Source:
    """Reads the parts of a log that one model needs."""

    def __init__(
        self,
        folder: str,
        manifest: LogManifest,
        spec: SparseSpec,
        label: str,
        split: str,
        memory: Memory | None = None,
        grown: bool = False,
    ) -> None:
        """grown: the log grew from the model's; see `check_spec`."""
        self._memory = memory or Memory()
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
        check_spec(manifest, spec, grown)

    def read(self, groups: Sequence[RowGroup]) -> Slices:
        """Row groups, those of one file beside each other: one call decodes them below each other.

        Raises:
            DataError: whatever is not as the schema and the manifest say.
        """
        by_file: dict[str, list[RowGroup]] = {}
        for group in groups:
            by_file.setdefault(group.file, []).append(group)
        return join_slices([self._read(file, mine) for file, mine in by_file.items()])

    def _read(self, name: str, groups: Sequence[RowGroup]) -> Slices:
        frame = self._frame(name, groups)
        time, offsets = frame.lists("time", np.int64)
        bounds = self._event_bounds(frame, groups, offsets)
        request_time = self._list(frame, "request_time", np.int64, offsets)
        self._in_order(frame, time, request_time, offsets)
        own = self._own(frame, groups, bounds, offsets, request_time)
        shift = np.array([g.first_event for g in groups], np.int64) - bounds[:-1]
        slices = Slices(
            user=frame.plain("user", np.int64),
            first_event=offsets[:-1] + np.repeat(shift, np.diff(frame.first_rows)),
            offsets=offsets,
            time=time,
            request_time=request_time,
            item=self._list(frame, "item", np.integer, offsets),
            action=self._list(frame, "action", np.int16, offsets),
            label=self._label(frame, offsets, own),
            own=own,
            events={f.name: self._event_feature(frame, f, offsets) for f in self.spec.event},
            counters={c: self._counter(frame, c, offsets, own) for c in self.spec.counters},
            users=self._users(groups, frame),
        )
        self._within(frame, "item", slices.item, offsets, self.manifest.items, "an item number")
        self._within(frame, "action", slices.action, offsets, self.spec.num_actions, "an action code")
        return slices

    def _frame(self, name: str, groups: Sequence[RowGroup]) -> Frame:
        path = join_path(self.folder, name)
        file = self._open(path)
        last = max(g.index for g in groups)
        if last >= file.num_row_groups:
            raise DataError(
                f"{path}: the manifest names row group {last}, the file has {file.num_row_groups}; {PREPARE_AGAIN}"
            )
        columns = ["user", "time", "request_time", "item", "impression", "action", self.label]
        columns += [f.name for f in self.spec.event] + list(self.spec.counters)
        return Frame(file, Place(path), columns, [g.index for g in groups])

    def _event_bounds(self, frame: Frame, groups: Sequence[RowGroup], offsets: Int64) -> Int64:
        """Events at which the row groups begin, and the end of the last: int64 [row groups + 1]."""
        bounds = offsets[frame.first_rows]
        for group, users, events in zip(groups, np.diff(frame.first_rows), np.diff(bounds), strict=True):
            if (users, events) != (group.users, group.events):
                raise DataError(
                    f"{Place(frame.place.path, group.index)}: the manifest says {group.users} users and {group.events} "
                    f"events, the file has {users} and {events}; {PREPARE_AGAIN}"
                )
        return bounds

    def _own(
        self, frame: Frame, groups: Sequence[RowGroup], bounds: Int64, offsets: Int64, request_time: Int64
    ) -> Int64:
        """Positions of the split's impressions; as many as the manifest says, or batches would not come out even."""
        impression = self._list(frame, "impression", np.bool_, offsets)
        expected = [g.impressions[SPLITS.index(self.split)] for g in groups]
        own, filled = self._memory.arrays({"own": (np.int64, sum(expected))})["own"], 0
        for group, wanted, (begin, end) in zip(groups, expected, itertools.pairwise(bounds.tolist()), strict=True):
            inside = in_split(request_time[begin:end], self.manifest.split, self.split)
            found = np.flatnonzero(impression[begin:end] & inside)
            if len(found) != wanted:
                raise DataError(
                    f"{Place(frame.place.path, group.index)}: the manifest says {wanted} impressions in split "
                    f"{self.split!r}, the file has {len(found)}; {PREPARE_AGAIN}"
                )
            np.add(found, begin, out=own[filled : filled + wanted])
            filled += wanted
        return own

    def _label(self, frame: Frame, offsets: Int64, own: Int64) -> Array:
        label = self._list(frame, self.label, np.int8, offsets)
        if len(label) and not (label.min() >= 0 and label.max() <= 1):  # others than impressions may hold anything
            bad = np.zeros(len(label), bool)
            bad[own] = (label[own] != 0) & (label[own] != 1)
            frame.refuse(bad, offsets, self.label, label, "0 or 1 for an impression")
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
                f"column {name!r} of {frame.row(row)}: expected {expected[row]} values as in column 'time', "
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
            column = Ragged(self._ids(frame, feature, column.values, inner), column.offsets)
        elif feature.table is not None:
            column = self._ids(frame, feature, column, offsets)
        elif feature.kind is Kind.VECTOR:
            bad = ~np.asarray(np.isfinite(column).all(axis=1))
            frame.refuse(bad, offsets, feature.name, column, "finite numbers")
        else:
            column = self._numbers(frame, feature, column, offsets)
        return column, offsets

    def _ids(self, frame: Frame, feature: Feature, values: Array, offsets: Int64 | None) -> Array:
        """Rows of the model's table: those of the log, row 0 where the model has none for the id yet."""
        rows = self.manifest.tables[feature.table or ""].rows
        if len(values) and not (values.min() >= 0 and values.max() < rows):
            bad = (values < 0) | (values >= rows)
            expected = f"a row of table {feature.table!r}, 0 to {rows - 1}"
            frame.refuse(bad, offsets, feature.name, values, expected)
        known = self.spec.table(feature.table or "").rows
        return values if known == rows else np.where(values < known, values, 0).astype(values.dtype)

    def _counter(self, frame: Frame, name: str, offsets: Int64, own: Int64) -> Counter:
        stored = self._list(frame, name, np.float32, offsets)
        standard = self._standard(name, log1p=name.endswith("_count"))
        if standard.bad(stored) is not None:  # others than impressions may hold anything
            bad, found = np.zeros(len(stored), bool), standard.bad(stored[own])
            bad[own] = False if found is None else found
            frame.refuse(bad, offsets, name, stored, standard.expected)
        return Counter(stored, standard)

    def _numbers(self, frame: Frame, feature: Feature, values: Array, offsets: Int64 | None) -> Array:
        standard = self._standard(feature.name, feature.log1p)
        absent = np.isnan(values) if feature.optional else None
        known = values if absent is None else np.where(absent, np.float32(0), values)
        bad = standard.bad(known)
        if bad is not None:
            frame.refuse(bad, offsets, feature.name, known, standard.expected)
        standardised = standard(known)
        if absent is not None:
            standardised[absent] = 0
        return standardised

    def _standard(self, name: str, log1p: bool) -> Standard:
        info = self.manifest.numbers.get(name)
        if info is None:
            raise DataError(
                f"{join_path(self.folder, MANIFEST)} has no mean and deviation of {name!r}; {PREPARE_AGAIN}"
            )
        return Standard.of(info, log1p)

    def _users(self, groups: Sequence[RowGroup], events: Frame) -> dict[str, Column]:
        """Profiles of the row groups' users: the users file has the same rows, its row groups may differ."""
        if not self.spec.user:
            return {}
        path = join_path(self.folder, "users", groups[0].file.rpartition("/")[2])
        file = self._open(path)
        begins = offsets_of(
            np.array([file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)], np.int64)
        )
        first = np.array([self._first_user[g.file, g.index] for g in groups], np.int64)
        rows = ranges(first, np.array([g.users for g in groups], np.int64))
        rows = rows[rows < begins[-1]]
        owner = np.searchsorted(begins, rows, side="right") - 1
        needed = np.unique(owner)
        frame = Frame(file, Place(path), ["user", *(f.name for f in self.spec.user)], needed.tolist())
        at = rows - begins[owner] + frame.first_rows[np.searchsorted(needed, owner)]
        found, wanted = frame.plain("user", np.int64)[at], events.plain("user", np.int64)
        if not np.array_equal(found, wanted):
            row = len(found) if len(found) < len(wanted) else int(np.argmax(found != wanted))
            raise DataError(
                f"{path} must have the same users in the same order as {events.place.path}, which differs at "
                f"{events.row(row)}; {PREPARE_AGAIN}"
            )
        return {f.name: take(self._feature(frame, f, nested=False)[0], at) for f in self.spec.user}

    def _in_order(self, frame: Frame, time: Int64, request_time: Int64, offsets: Int64) -> None:
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


def check_spec(manifest: LogManifest, spec: SparseSpec, grown: bool = False) -> None:
    """Refuses a log that is not the one the model was made for: kinds, tables and their sizes.

    grown: the log grew from the model's, so its tables may have rows behind the model's last one. As ids keep their
    rows, these are the ids that the model does not know: it reads them as it reads any unknown id, as row 0.

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
        if rows != table.rows and not (grown and rows > table.rows):
            raise SchemaError(
                f"table {table.name!r}: the model has {table.rows} rows, the log {schema.name!r} has {rows}; "
                "use the model's own log, or prepare this one with the model's vocabulary"
            )
    if len(schema.actions) != spec.num_actions:
        raise SchemaError(
            f"the model knows {spec.num_actions} actions, the log {schema.name!r} has {len(schema.actions)}"
        )
