"""Batches for a scorer from a prepared log: a user's newest events, and candidates that are in no stream.

A service has a store of user events of its own; a prepared log stands in for it here, whole in memory.

Legend: U users, T events, N candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ctr_rec.batch.batch import Batch
from ctr_rec.batch.collate import Collator
from ctr_rec.batch.columns import Array, Column, Int64, Ragged, offsets_of, part, ranges, take
from ctr_rec.batch.config import DataConfig
from ctr_rec.batch.lot import Lot
from ctr_rec.batch.source import Slices, Source
from ctr_rec.batch.standard import Counter, Standard
from ctr_rec.errors import DataError
from ctr_rec.schema.log import Feature, Kind
from ctr_rec.schema.manifest import SPLITS, load_manifest
from ctr_rec.schema.table import SparseSpec

_NONE = np.zeros(0, np.int64)


class LogUsers:
    """Users and items of a prepared log by their numbers there.

    Raises:
        DataError: the folder is no prepared log, or is damaged. SchemaError: it is not the one the spec was made for.
    """

    def __init__(self, config: DataConfig, spec: SparseSpec) -> None:
        self._manifest = load_manifest(config.log)
        self._spec, self._config = spec, config
        # Only events are read, so any split will do.
        source = Source(config.log, self._manifest, spec, config.label, SPLITS[0])
        self._slices = source.read(self._manifest.row_groups)
        delay = self._manifest.data_schema.action_delay
        self._known_at = self._slices.time + delay if delay else self._slices.time
        self._row = {int(user): row for row, user in enumerate(self._slices.user)}
        self._collator = Collator(spec, source.items(), self._manifest.items, config, 0, 1)

    def num_events(self, user: int) -> int:
        row = self._row_of(user)
        return int(self._slices.offsets[row + 1] - self._slices.offsets[row])

    def histories(self, users: Sequence[int], newest: int, before: int | None = None) -> Batch:
        """The users' newest events, without impressions. before: only what was known before that time."""
        rows = np.array([self._row_of(user) for user in users], np.int64)
        begin, end = self._slices.offsets[rows], self._slices.offsets[rows + 1]
        if before is not None:
            known = [np.searchsorted(self._known_at[a:b], before) for a, b in zip(begin, end, strict=True)]
            end = begin + np.array(known, np.int64)
        start = np.maximum(begin, end - newest)
        lot = _lot(rows, end - start, ranges(start, end - start), _NONE)
        return self._collator.fill(self._slices, self._known_at, lot)[0]

    def candidates(self, user: int, items: Sequence[int], request_time: int, context: Mapping[str, Any]) -> Batch:
        """Impressions of a user that are in no stream, one per item, and no event.

        items: numbers in the log. request_time: in its unit. context: the features and counters that are known at the
        request, as the log stores them (table rows, raw numbers), one value for all candidates or one for each.

        Raises:
            DataError: a user or item that the log has not; a context that lacks an input, has another, or a bad value.
        """
        chosen = np.asarray(items, np.int64).reshape(-1)
        wrong = chosen[(chosen < 0) | (chosen >= self._manifest.items)]
        if len(wrong):
            raise DataError(f"candidates: expected item numbers from 0 to {self._manifest.items - 1}, got {wrong[0]}")
        slices = self._as_stream(self._row_of(user), chosen, request_time, self._inputs(context, len(chosen)))
        lot = _lot(np.zeros(1, np.int64), np.zeros(1, np.int64), _NONE, np.arange(len(chosen)))
        return self._collator.fill(slices, slices.time, lot)[0]

    def _row_of(self, user: int) -> int:
        if user not in self._row:
            raise DataError(f"user {user}: expected the number of a user in {self._config.log}, which has it not")
        return self._row[user]

    def _as_stream(self, row: int, items: Int64, request_time: int, inputs: Mapping[str, Column]) -> Slices:
        """The candidates as if they were the user's only events: collating needs no second way."""
        nothing = np.zeros(len(items), np.int64)
        times = np.full(len(items), request_time, np.int64)
        return Slices(
            user=self._slices.user[row : row + 1],
            first_event=np.zeros(1, np.int64),
            offsets=np.array([0, len(items)], np.int64),
            time=times,
            request_time=times,
            item=items,
            action=nothing,
            label=nothing,
            own=np.arange(len(items)),
            events={f.name: inputs.get(f.name, part(self._slices.events[f.name], 0, 0)) for f in self._spec.event},
            counters={name: Counter(_plain(inputs[name]), self._standard(name)) for name in self._spec.counters},
            users={name: take(column, np.array([row])) for name, column in self._slices.users.items()},
        )

    def _inputs(self, context: Mapping[str, Any], count: int) -> dict[str, Column]:
        wanted = {f.name: f for f in self._spec.impression}
        names = [*wanted, *self._spec.counters]
        if set(names) != set(context):
            raise DataError(
                f"context: expected {', '.join(names) or 'nothing'}, which the model reads of a request; got "
                f"{', '.join(context) or 'nothing'}"
            )
        found = {name: self._feature(f, context[name], count) for name, f in wanted.items()}
        for name in self._spec.counters:
            found[name] = _one_each(name, context[name], np.float32, (count,))
            self._check(name, self._standard(name), _plain(found[name]))
        return found

    def _feature(self, feature: Feature, value: Any, count: int) -> Column:
        if feature.kind is Kind.CATEGORIES:
            return self._bags(feature, value, count)
        if feature.kind is Kind.VECTOR:
            return _one_each(feature.name, value, np.float32, (count, feature.dim or 1))
        if feature.kind is Kind.CATEGORY:
            return self._rows(feature, _one_each(feature.name, value, np.int64, (count,)))
        standard = self._standard(feature.name, feature.log1p)
        values = _one_each(feature.name, value, np.float32, (count,))
        self._check(feature.name, standard, values)
        return standard(values)

    def _bags(self, feature: Feature, value: Any, count: int) -> Ragged:
        """A list of rows for all candidates, or a list of such lists, one for each."""
        nested = len(value) > 0 and all(isinstance(v, (list, tuple, np.ndarray)) for v in value)
        bags = [np.asarray(v, np.int64).reshape(-1) for v in (value if nested else [value] * count)]
        if len(bags) != count:
            raise DataError(f"context {feature.name!r}: expected one list of rows or {count}, got {len(bags)}")
        values = self._rows(feature, np.concatenate([_NONE, *bags]))
        return Ragged(values, offsets_of(np.array([len(b) for b in bags], np.int64)))

    def _rows(self, feature: Feature, values: Array) -> Array:
        rows = self._manifest.tables[feature.table or ""].rows
        wrong = values[(values < 0) | (values >= rows)]
        if len(wrong):
            raise DataError(
                f"context {feature.name!r}: expected a row of table {feature.table!r}, 0 to {rows - 1}, got {wrong[0]}"
            )
        return values

    def _standard(self, name: str, log1p: bool | None = None) -> Standard:
        return Standard.of(self._manifest.numbers[name], name.endswith("_count") if log1p is None else log1p)

    def _check(self, name: str, standard: Standard, values: Array) -> None:
        bad = standard.bad(values)
        if bad is not None:
            raise DataError(f"context {name!r}: expected {standard.expected}, got {values[bad][0]}")


def _one_each(name: str, value: Any, dtype: type[np.generic], shape: tuple[int, ...]) -> Array:
    try:
        return np.array(np.broadcast_to(np.asarray(value, dtype), shape))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"context {name!r}: expected one value or {shape[0]} ({np.dtype(dtype).name}), got {value!r}"
        ) from error


def _plain(column: Column) -> Array:
    assert not isinstance(column, Ragged)
    return column


def _lot(user: Int64, length: Int64, events: Int64, own: Int64) -> Lot:
    """One batch of users with so many events each; impressions, if any, are all of the first and see none of them."""
    counts = np.zeros(len(user), np.int64)
    counts[:1] = len(own)
    return Lot(
        user_bounds=np.array([0, len(user)]),
        event_bounds=np.array([0, len(events)]),
        impression_bounds=np.array([0, len(own)]),
        user=user,
        num_impressions=counts,
        event_offsets=offsets_of(length),
        events=events,
        own=own,
        visible=np.zeros(len(own), np.int64),
        impression_event=np.full(len(own), -1, np.int64),
        visible_end=np.zeros(len(own), np.int64),
        histories={},
        real=np.ones(1, bool),
        global_impressions=np.array([len(own)]),
        global_events=np.array([len(events)]),
    )
