"""Features of a lot's items, events, impressions and users. Each table's rows are made distinct over a batch's levels.

Legend: B batches, M distinct items, T events, N impressions, R distinct rows of a table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ctr_rec.batch.batch import Ids, Jagged, Level
from ctr_rec.batch.columns import Array, Column, Int64, Ragged, Scratch, take
from ctr_rec.batch.lot import distinct_each, split, split_offsets, split_ragged
from ctr_rec.batch.standard import Counter
from ctr_rec.schema.log import Feature
from ctr_rec.schema.table import SparseSpec


@dataclass(frozen=True)
class _Waiting:
    """A feature whose table rows are not made distinct yet. bounds: of the rows of its level, int64 [B + 1]."""

    level: str
    name: str
    column: Column
    bounds: Int64


class Levels:
    """Collects the features of all levels, then gives them out once the distinct rows of every table are known."""

    def __init__(self, spec: SparseSpec, scratch: Scratch, num_batches: int) -> None:
        self._spec = spec
        self._scratch = scratch
        self._num_batches = num_batches
        self._levels: dict[str, list[Level]] = {}
        self._waiting: dict[str, list[_Waiting]] = {}

    def add(
        self, level: str, features: Iterable[Feature], columns: dict[str, Column], rows: Int64, bounds: Int64
    ) -> None:
        """The given rows of a level's columns. Features with a table wait for `finish`. bounds: int64 [B + 1]."""
        self._levels[level] = levels = _empty(self._num_batches)
        for feature in features:
            column = take(columns[feature.name], rows)
            if feature.table is not None:
                self._waiting.setdefault(feature.table, []).append(_Waiting(level, feature.name, column, bounds))
            else:
                assert not isinstance(column, Ragged)
                dense(levels, feature.name, column, bounds)

    def counters(self, level: str, columns: Mapping[str, Counter], rows: Int64, bounds: Int64) -> None:
        """Numbers that are no feature of the schema's own."""
        for name, column in columns.items():
            dense(self._levels[level], name, column.take(rows), bounds)

    def finish(self) -> tuple[dict[str, list[Level]], list[dict[str, Tensor]]]:
        """Levels by name, and the distinct rows of every table of the embedding collection in the spec's order."""
        tables = {table.name: self._one_table(table.name, table.rows) for table in self._spec.collection()}
        return self._levels, [{name: rows[b] for name, rows in tables.items()} for b in range(self._num_batches)]

    def _one_table(self, table: str, rows: int) -> list[Tensor]:
        mine = self._waiting.get(table, [])
        values = [w.column.values if isinstance(w.column, Ragged) else w.column for w in mine]
        bounds = [w.column.offsets[w.bounds] if isinstance(w.column, Ragged) else w.bounds for w in mine]
        found, ends, indexes = distinct_each(values, bounds, self._num_batches, rows, self._scratch)
        for w, index, at in zip(mine, indexes, bounds, strict=True):
            offsets = [None] * self._num_batches
            if isinstance(w.column, Ragged):
                offsets = split_offsets(w.column.offsets, w.bounds)
            for level, own, o in zip(self._levels[w.level], split(index, at), offsets, strict=True):
                level.ids[w.name] = Ids(table, own, o)
        return list(split(found, ends))


def _empty(num_batches: int) -> list[Level]:
    return [Level({}, {}, {}) for _ in range(num_batches)]


def dense(levels: list[Level], name: str, column: Array, bounds: Int64) -> None:
    """Files a float column under numbers [rows] or vectors [rows, dim] of each batch."""
    for level, rows in zip(levels, split(column, bounds), strict=True):
        (level.numbers if column.ndim == 1 else level.vectors)[name] = rows


def profiles(
    features: Iterable[Feature], columns: dict[str, Column], rows: Int64, bounds: Int64
) -> tuple[list[dict[str, Jagged]], list[Level]]:
    """User bags (table rows themselves) and the users' dense features, of each batch."""
    num_batches = len(bounds) - 1
    bags: list[dict[str, Jagged]] = [{} for _ in range(num_batches)]
    levels = _empty(num_batches)
    for feature in features:
        column = take(columns[feature.name], rows)
        if feature.table is None:
            assert not isinstance(column, Ragged)
            dense(levels, feature.name, column, bounds)
            continue
        ids = column if isinstance(column, Ragged) else Ragged(column, np.arange(len(rows) + 1))
        for mine, bag in zip(bags, split_ragged(Ragged(ids.values.astype(np.int64), ids.offsets), bounds), strict=True):
            mine[feature.name] = bag
    return bags, levels
