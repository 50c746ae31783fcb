"""Running counts against a loop over pairs, on ties and with an action delay."""

from __future__ import annotations

import numpy as np
import pytest

from ctr_rec.prepare.counters import rate, running


@pytest.mark.parametrize("delay", [0, 3])
@pytest.mark.parametrize("size", [0, 1, 57])
def test_equals_a_loop(size: int, delay: int) -> None:
    r = np.random.default_rng(size + delay)
    owner, time = r.integers(0, 5, size), r.integers(0, 20, size)
    request_time = time - r.integers(0, 3, size)
    label = r.integers(-1, 2, size).astype(np.int8)
    count, positives = running(owner, time + delay, request_time, label)
    for i in range(size):
        seen = [
            label[j]
            for j in range(size)
            if label[j] >= 0 and owner[j] == owner[i] and time[j] + delay < request_time[i]
        ]
        assert count[i] == len(seen)
        assert positives[i] == sum(seen)


def test_the_same_instant_does_not_count() -> None:
    time = np.array([5, 5, 6])
    count, _ = running(np.zeros(3, np.int64), time, time, np.ones(3, np.int8))
    assert count.tolist() == [0, 0, 2]


def test_rate_is_drawn_to_the_prior() -> None:
    assert rate(np.array([0, 80]), np.array([0, 80]), 0.25).tolist() == pytest.approx([0.25, 0.85])
