"""Batches made together are cut apart as if each had been made alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ctr_rec.batch.columns import Ragged, Scratch, distinct
from ctr_rec.batch.lot import distinct_each, per_row, split, split_offsets, split_ragged

BOUNDS = np.array([0, 2, 2, 5])


def test_values_of_batches_and_of_their_rows() -> None:
    values = np.arange(10, 15)
    parts = split(values, BOUNDS)
    assert [p.tolist() for p in parts] == [[10, 11], [], [12, 13, 14]]
    values[0] = 9
    assert parts[0].tolist() == [9, 11]  # no copy
    assert per_row(np.array([7, 8, 9]), BOUNDS).tolist() == [7, 7, 9, 9, 9]


def test_offsets_begin_at_0_in_every_batch() -> None:
    column = Ragged(np.arange(7), np.array([0, 2, 2, 3, 7, 7]))
    assert [o.tolist() for o in split_offsets(column.offsets, BOUNDS)] == [[0, 2, 2], [0], [0, 1, 5, 5]]
    found = split_ragged(column, BOUNDS)
    assert [j.values.tolist() for j in found] == [[0, 1], [], [2, 3, 4, 5, 6]]
    assert [j.offsets.tolist() for j in found] == [[0, 2, 2], [0], [0, 1, 5, 5]]


@pytest.mark.parametrize("size", [6, 5000])
def test_distinct_values_of_every_batch(size: int) -> None:
    random, scratch = np.random.default_rng(0), Scratch()
    for _ in range(3):  # the scratch memory is used again
        parts = [random.integers(0, size, 5).astype(np.int32), random.integers(0, size, 30)]
        bounds = [BOUNDS, np.array([0, 10, 10, 30])]
        found, ends, indexes = distinct_each(parts, bounds, 3, size, scratch)
        for k, (a, b) in enumerate(itertools.pairwise(ends)):
            mine = [p[at[k] : at[k + 1]] for p, at in zip(parts, bounds, strict=True)]
            alone, own = distinct(mine, size, Scratch())
            assert found[a:b].tolist() == alone.tolist()
            got = [i[at[k] : at[k + 1]].tolist() for i, at in zip(indexes, bounds, strict=True)]
            assert got == [o.tolist() for o in own]
        assert found.dtype == np.int64
        assert all(i.dtype == np.int64 for i in indexes)


def test_distinct_values_of_nothing() -> None:
    found, ends, indexes = distinct_each([], [], 2, 9, Scratch())
    assert (found.tolist(), ends.tolist(), indexes) == ([], [0, 0, 0], [])
