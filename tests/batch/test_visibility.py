"""The two-clock rule against a loop over all pairs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ctr_rec.batch import visibility
from ctr_rec.batch.columns import CACHED
from ctr_rec.batch.visibility import history_ends, impression_ends, stream_ends


def stream(seed: int, span: int, delay: int) -> tuple[np.ndarray, ...]:
    """known_at, offsets, own, user, request_time of users with ties, one of them empty."""
    random = np.random.default_rng(seed)
    lengths = np.array([5, 0, 17, 1, 30])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    known_at = np.concatenate([np.sort(random.integers(0, span, n)) for n in lengths]) + delay
    own = np.flatnonzero(random.random(len(known_at)) < 0.7)
    user = np.repeat(np.arange(5), lengths)[own]
    request_time = known_at[own] - delay - random.integers(0, 3, len(own)) * (random.random(len(own)) < 0.5)
    return known_at, offsets, own, user, request_time


CASES = [(0, 8, 0), (1, 50, 0), (2, 8, 3), (3, 2**61, 5)]


@pytest.mark.parametrize(("seed", "span", "delay"), CASES)
def test_impression_ends(seed: int, span: int, delay: int, monkeypatch: pytest.MonkeyPatch) -> None:
    known_at, offsets, own, user, request_time = stream(seed, span, delay)
    expected = [
        offsets[u] + sum(k < t for k in known_at[offsets[u] : offsets[u + 1]])
        for u, t in zip(user, request_time, strict=True)
    ]
    assert impression_ends(known_at, offsets, user, request_time).tolist() == expected
    asked = known_at.copy()
    asked[own] = request_time
    for cached in (CACHED, 1, 6, 17):  # a part holds whole users
        monkeypatch.setattr(visibility, "CACHED", cached)
        out = np.full(len(own), -1)
        assert stream_ends(known_at, offsets, own, asked, out) is out
        assert out.tolist() == stream_ends(known_at, offsets, own, asked).tolist() == expected
    assert all(end <= position for end, position in zip(expected, own, strict=True))


@pytest.mark.parametrize(("seed", "span", "delay"), CASES)
def test_history_ends(seed: int, span: int, delay: int) -> None:
    known_at, offsets, *_ = stream(seed, span, delay)
    expected = [
        begin + sum(k <= known_at[t] for k in known_at[begin:end])
        for begin, end in itertools.pairwise(offsets)
        for t in range(begin, end)
    ]
    assert history_ends(known_at, offsets).tolist() == expected


def test_ties_end_where_a_user_ends() -> None:
    known_at, offsets = np.full(5, 7), np.array([0, 2, 2, 3, 5])
    user = np.array([0, 0, 2, 3, 3])
    assert history_ends(known_at, offsets).tolist() == [2, 2, 3, 5, 5]
    assert stream_ends(known_at, offsets, np.arange(5), user, known_at).tolist() == [0, 0, 2, 3, 3]


def test_nothing_sees_nothing() -> None:
    none, offsets = np.zeros(0, np.int64), np.zeros(3, np.int64)
    assert history_ends(none, offsets).tolist() == []
    assert impression_ends(none, offsets, none, none).tolist() == []
    assert stream_ends(none, offsets, none, none, none).tolist() == []
    assert impression_ends(none, offsets, np.array([1]), np.array([7])).tolist() == [0]
