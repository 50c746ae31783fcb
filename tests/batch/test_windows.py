"""Windows and their union against sets."""

from __future__ import annotations

import numpy as np
import pytest

from ctr_rec.batch.columns import ranges
from ctr_rec.batch.windows import Window, union


@pytest.mark.parametrize("seed", range(30))
def test_the_union_of_windows_holds_each_position_once(seed: int) -> None:
    random = np.random.default_rng(seed)
    n = int(random.integers(1, 40))
    low = random.integers(0, 120, n)
    window = Window(low, low + random.integers(0, 25, n) * (random.random(n) < 0.8))
    start, length, local = union(window)
    every = ranges(start, length)
    expected = sorted({p for a, b in zip(window.low, window.high, strict=True) for p in range(a, b)})
    assert every.tolist() == expected
    for k in range(n):
        mine = every[local.values[local.offsets[k] : local.offsets[k + 1]]]
        assert mine.tolist() == list(range(window.low[k], window.high[k]))


def test_empty_windows_have_an_empty_union() -> None:
    start, length, local = union(Window(np.array([3, 1, 3]), np.array([3, 1, 3])))
    assert ranges(start, length).tolist() == []
    assert local.offsets.tolist() == [0, 0, 0, 0]
