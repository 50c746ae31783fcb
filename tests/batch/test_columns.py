"""Jagged columns against plain loops, with empty rows, empty columns and rows of one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ctr_rec.batch.columns import Ragged, Scratch, cut_evenly, distinct, join, offsets_of, part, ranges, take, union

RAGGED = Ragged(np.arange(10, 17), np.array([0, 2, 2, 3, 7]))
ROWS = [[10, 11], [], [12], [13, 14, 15, 16]]


def lists(column: Ragged) -> list[list[int]]:
    offsets = column.offsets.tolist()
    return [column.values[a:b].tolist() for a, b in itertools.pairwise(offsets)]


def test_ranges_follow_each_other() -> None:
    assert ranges(np.array([5, 9, 0, 3]), np.array([2, 0, 1, 3])).tolist() == [5, 6, 0, 3, 4, 5]
    assert ranges(np.zeros(0, np.int64), np.zeros(0, np.int64)).tolist() == []
    assert ranges(np.array([4]), np.array([0])).tolist() == []


def test_union() -> None:
    assert union(np.array([1, 4, 9]), np.array([9, 0, 4, 4])).tolist() == [0, 1, 4, 9]
    assert union(np.zeros(0, np.int64), np.array([2])).tolist() == [2]
    assert union(np.zeros(0, np.int64), np.zeros(0, np.int64)).tolist() == []


def test_offsets_of_lengths() -> None:
    assert offsets_of(np.array([2, 0, 1])).tolist() == [0, 2, 2, 3]
    assert offsets_of(np.zeros(0, np.int64)).tolist() == [0]


@pytest.mark.parametrize("rows", [[3, 0, 0, 1], [], [1], [2]])
def test_take(rows: list[int]) -> None:
    chosen = np.array(rows, np.int64)
    taken = take(RAGGED, chosen)
    assert isinstance(taken, Ragged)
    assert lists(taken) == [ROWS[r] for r in rows]
    plain = np.arange(8.0).reshape(4, 2)
    np.testing.assert_array_equal(take(plain, chosen), plain[chosen])


@pytest.mark.parametrize(("start", "stop"), [(0, 4), (1, 3), (2, 2), (3, 4)])
def test_part(start: int, stop: int) -> None:
    cut = part(RAGGED, start, stop)
    assert isinstance(cut, Ragged)
    assert lists(cut) == ROWS[start:stop]
    assert part(np.arange(4), start, stop).tolist() == list(range(start, stop))


def test_join() -> None:
    joined = join([RAGGED, part(RAGGED, 1, 2), RAGGED])
    assert isinstance(joined, Ragged)
    assert lists(joined) == [*ROWS, [], *ROWS]
    assert join([np.arange(2), np.arange(3)]).tolist() == [0, 1, 0, 1, 2]
    with pytest.raises(AssertionError, match="plain in one row group and ragged in another"):
        join([RAGGED, np.arange(2)])


@pytest.mark.parametrize("size", [12, 5000])
def test_distinct_in_small_and_in_large_tables(size: int) -> None:
    scratch = Scratch()
    random = np.random.default_rng(0)
    for _ in range(3):  # the scratch memory is used again
        parts = [random.integers(0, size, n) for n in (7, 0, 1, 30)]
        found, indexes = distinct(parts, size, scratch)
        assert found.tolist() == sorted(set(np.concatenate(parts).tolist()))
        for values, index in zip(parts, indexes, strict=True):
            assert found[index].tolist() == values.tolist()
            assert index.dtype == np.int64


def test_distinct_of_nothing() -> None:
    found, indexes = distinct([], 9, Scratch())
    assert (found.tolist(), indexes) == ([], [])
    found, indexes = distinct([np.zeros(0, np.int32)], 9, Scratch())
    assert (found.tolist(), indexes[0].tolist()) == ([], [])


def test_scratch_marks_start_clean() -> None:
    scratch = Scratch()
    scratch.mark(9)[:] = True
    assert not scratch.mark(5).any()
    assert not scratch.mark(20).any()


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_cut_evenly(parts: int) -> None:
    for weights in ([5, 1, 1, 9, 2, 2], [1], [0, 0], [], [100, 1, 1]):
        bounds = cut_evenly(np.array(weights, np.int64), parts)
        assert len(bounds) == parts + 1
        assert (bounds[0], bounds[-1]) == (0, len(weights))
        assert (np.diff(bounds) >= 0).all()
        for a, b in itertools.pairwise(bounds):
            assert sum(weights[a:b]) <= sum(weights) / parts + max(weights, default=0)
