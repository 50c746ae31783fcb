"""Features of a batch's items, events, impressions and users. Each table's rows are made distinct over all levels.

Legend: M distinct items, T events, N impressions, R distinct rows of a table.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from ctr_rec.batch.batch import Ids, Jagged, Level
from ctr_rec.batch.columns import Array, Column, Int64, Ragged, Scratch, distinct, take
from ctr_rec.schema.log import Feature
from ctr_rec.schema.table import SparseSpec


def tensor(values: Array) -> Tensor:
    """The same memory as a tensor. Raises nothing: what a batch is made of is contiguous and writable."""
    return torch.from_numpy(values)


def jagged(column: Ragged) -> Jagged:
    return Jagged(tensor(column.values), tensor(column.offsets))


class Levels:
    """Collects the features of all levels, then gives them out once the distinct rows of every table are known."""

    def __init__(self, spec: SparseSpec, scratch: Scratch) -> None:
        self._spec = spec
        self._scratch = scratch
        self._levels: dict[str, tuple[dict[str, tuple[str, Column]], Level]] = {}

    def add(self, level: str, features: Iterable[Feature], columns: dict[str, Column], rows: Int64) -> None:
        """The given rows of a level's columns. Features with a table wait for `finish`."""
        waiting: dict[str, tuple[str, Column]] = {}
        self._levels[level] = waiting, Level({}, {}, {})
        for feature in features:
            column = take(columns[feature.name], rows)
            if feature.table is not None:
                waiting[feature.name] = feature.table, column
            else:
                assert not isinstance(column, Ragged)
                dense(self._levels[level][1], feature.name, column)

    def numbers(self, level: str, columns: dict[str, Array], rows: Int64) -> None:
        """Numbers that are no feature of the schema's own: the counters."""
        for name, column in columns.items():
            dense(self._levels[level][1], name, column.take(rows))

    def finish(self) -> tuple[dict[str, Level], dict[str, Tensor]]:
        """Levels by name, and the distinct rows of every table of the embedding collection in the spec's order."""
        tables = {table.name: self._one_table(table.name, table.rows) for table in self._spec.collection()}
        return {name: level for name, (_, level) in self._levels.items()}, tables

    def _one_table(self, table: str, rows: int) -> Tensor:
        mine = [
            (level, name, column)
            for waiting, level in self._levels.values()
            for name, (wanted, column) in waiting.items()
            if wanted == table
        ]
        values = [c.values if isinstance(c, Ragged) else c for _, _, c in mine]
        found, indexes = distinct(values, rows, self._scratch)
        for (level, name, column), index in zip(mine, indexes, strict=True):
            offsets = tensor(column.offsets) if isinstance(column, Ragged) else None
            level.ids[name] = Ids(table, tensor(index), offsets)
        return tensor(found)


def dense(level: Level, name: str, column: Array) -> None:
    """Files a float column under numbers [rows] or vectors [rows, dim]."""
    (level.numbers if column.ndim == 1 else level.vectors)[name] = tensor(column)


def profiles(features: Iterable[Feature], columns: dict[str, Column], rows: Int64) -> tuple[dict[str, Jagged], Level]:
    """User bags (table rows themselves) and the users' dense features."""
    bags, level = {}, Level({}, {}, {})
    for feature in features:
        column = take(columns[feature.name], rows)
        if feature.table is None:
            assert not isinstance(column, Ragged)
            dense(level, feature.name, column)
        elif isinstance(column, Ragged):
            bags[feature.name] = jagged(Ragged(column.values.astype(np.int64), column.offsets))
        else:
            one_each = np.arange(len(rows) + 1, dtype=np.int64)
            bags[feature.name] = jagged(Ragged(column.astype(np.int64), one_each))
    return bags, level
