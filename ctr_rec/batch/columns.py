"""Jagged columns in NumPy: gather, join and make distinct, without a loop over rows.

Legend: R rows, V values of a ragged column, D length of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Array = npt.NDArray[Any]

CACHED = 1 << 17
"""Rows of a long column looked at together, so that what is worked out on the way stays in the processor's cache."""


@dataclass(frozen=True)
class Ragged:
    """values[offsets[i] : offsets[i + 1]] belong to row i. values: [V], offsets: int64 [R + 1]."""

    values: Array
    offsets: Int64


Column = Array | Ragged  # [R], [R, D] or any number of values per row


def offsets_of(lengths: Int64) -> Int64:
    """Offsets of consecutive rows of these lengths. int64 [R + 1]."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def ranges(start: Int64, length: Int64) -> Int64:
    """start[0], start[0] + 1, ... (length[0] of them), start[1], ...; one after the other."""
    ends = np.cumsum(length)
    total = int(ends[-1]) if len(ends) else 0
    out = np.arange(total, dtype=np.int64)
    out += np.repeat(start - (ends - length), length)
    return out


def union(first: Int64, other: Int64) -> Int64:
    """Values of both in ascending order, each once; NumPy's `union1d` hashes, which is slower for some thousand."""
    both = np.concatenate([first, other])
    both.sort()
    new = np.ones(len(both), bool)
    np.not_equal(both[1:], both[:-1], out=new[1:])
    return both[new]


def take(column: Column, rows: Int64) -> Column:
    """The given rows of a column, in the given order."""
    if not isinstance(column, Ragged):
        return column.take(rows, axis=0)
    start = column.offsets[rows]
    length = column.offsets[rows + 1] - start
    return Ragged(column.values.take(ranges(start, length)), offsets_of(length))


def part(column: Column, start: int, stop: int) -> Column:
    """Rows start to stop, without a copy of the values."""
    if not isinstance(column, Ragged):
        return column[start:stop]
    offsets = column.offsets[start : stop + 1]
    return Ragged(column.values[offsets[0] : offsets[-1]], offsets - offsets[0])


def join(columns: Sequence[Column]) -> Column:
    """Columns one below the other; all plain or all ragged."""
    if len(columns) == 1:
        return columns[0]
    ragged = [c for c in columns if isinstance(c, Ragged)]
    if not ragged:
        return np.concatenate([c for c in columns if not isinstance(c, Ragged)])
    assert len(ragged) == len(columns), "a column is plain in one row group and ragged in another"
    starts = np.cumsum([0] + [len(c.values) for c in ragged])
    offsets = [c.offsets[1:] + s for c, s in zip(ragged, starts[:-1], strict=True)]
    return Ragged(np.concatenate([c.values for c in ragged]), np.concatenate([np.zeros(1, np.int64), *offsets]))


class Scratch:
    """Memory of one collating thread that is used again for every batch. Never shared between threads."""

    def __init__(self) -> None:
        self._mark = np.zeros(0, bool)
        self._position = np.empty(0, np.int64)

    def mark(self, size: int) -> npt.NDArray[np.bool_]:
        """All False."""
        if len(self._mark) < size:
            self._mark = np.empty(size, bool)
        mark = self._mark[:size]
        mark.fill(False)
        return mark

    def position(self, size: int) -> Int64:
        """Contents are whatever the last caller left."""
        if len(self._position) < size:
            self._position = np.empty(size, np.int64)
        return self._position[:size]


def distinct(parts: Sequence[Array], size: int, scratch: Scratch) -> tuple[Int64, list[Int64]]:
    """Distinct values over all parts in ascending order, and for each part the index of each of its values.

    parts: integers in [0, size). The work grows with the values, not with size.
    """
    position = scratch.position(size)
    parts = [p.astype(np.intp, copy=False) for p in parts]  # other indexes are several times slower
    if size <= 4 * sum(len(p) for p in parts):
        mark = scratch.mark(size)
        for values in parts:
            mark[values] = True
        found = np.flatnonzero(mark)
    else:
        # Each value's slot keeps the index of one of its occurrences, and that occurrence knows it was kept.
        values = np.concatenate([np.zeros(0, np.int64), *parts])
        order = np.arange(len(values), dtype=np.int64)
        position[values] = order
        found = np.sort(values[position.take(values) == order])
    position[found] = np.arange(len(found), dtype=np.int64)
    return found, [position.take(values) for values in parts]


def cut_evenly(weights: Int64, parts: int) -> Int64:
    """Bounds of `parts` consecutive pieces of nearly equal weight: int64 [parts + 1]. A piece may be empty."""
    ends = np.cumsum(weights)
    total = max(int(ends[-1]), 1) if len(ends) else 1
    owner = (2 * ends - weights) * parts // (2 * total)
    return np.searchsorted(owner, np.arange(parts + 1)).astype(np.int64)
