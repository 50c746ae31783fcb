"""Windows and their union against sets."""

from __future__ import annotations

import numpy as np
import pytest

from ctr_rec.batch.collate import Window, _among, _among_pieces, _union
from ctr_rec.batch.columns import offsets_of, ranges
from ctr_rec.batch.packing import Pieces


@pytest.mark.parametrize("seed", range(30))
def test_the_union_of_windows_holds_each_position_once(seed: int) -> None:
    random = np.random.default_rng(seed)
    n = int(random.integers(1, 40))
    low = random.integers(0, 120, n)
    window = Window(low, low + random.integers(0, 25, n) * (random.random(n) < 0.8))
    start, length, local = _union(window)
    union = ranges(start, length)
    expected = sorted({p for a, b in zip(window.low, window.high, strict=True) for p in range(a, b)})
    assert union.tolist() == expected
    for k in range(n):
        mine = union[local.values[local.offsets[k] : local.offsets[k + 1]]]
        assert mine.tolist() == list(range(window.low[k], window.high[k]))


def test_empty_windows_have_an_empty_union() -> None:
    start, length, local = _union(Window(np.array([3, 1, 3]), np.array([3, 1, 3])))
    assert ranges(start, length).tolist() == []
    assert local.offsets.tolist() == [0, 0, 0, 0]


def test_own_positions_among_events() -> None:
    events = np.array([2, 5, 9])
    assert _among(events, np.array([5, 3, 9, 10, 2])).tolist() == [1, -1, 2, -1, 0]
    assert _among(events[:0], np.array([5])).tolist() == [-1]


@pytest.mark.parametrize("seed", range(20))
def test_own_positions_among_stretches_are_found_in_later_stretches_too(seed: int) -> None:
    random = np.random.default_rng(seed)
    bounds = np.sort(random.choice(200, 12, replace=False))
    start, end = bounds[::2], bounds[1::2]
    count = random.integers(0, 9, 6)
    pieces = Pieces(np.zeros(6, np.int64), start, end, count)
    offsets = offsets_of(end - start)
    first = np.repeat(start, count)
    own = first + random.integers(0, 90, len(first))
    shift = np.repeat(offsets[:-1] - start, count)
    found = _among_pieces(pieces, offsets, own, shift)
    assert found.tolist() == _among(ranges(start, end - start), own).tolist()
