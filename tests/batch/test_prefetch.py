"""Threads that work ahead: order, errors, and what remains when the consumer leaves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from ctr_rec.batch.prefetch import Ahead, Waited, in_order


def slow(value: int, seconds: float) -> int:
    time.sleep(seconds)
    return value


def fail() -> int:
    raise ValueError("no such row")


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_results_come_in_order(workers: int) -> None:
    tasks = (partial(slow, i, 0.01 if i % 3 == 0 else 0.0) for i in range(12))
    waited = Waited()
    assert list(in_order(tasks, workers, 3, waited)) == list(range(12))
    assert waited.seconds > 0.0


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_in_its_turn(workers: int) -> None:
    tasks: list[Callable[[], int]] = [partial(slow, 0, 0.0), fail, partial(slow, 2, 0.0)]
    results = in_order(iter(tasks), workers, 2, Waited())
    assert next(results) == 0
    with pytest.raises(ValueError, match="no such row"):
        next(results)


def test_no_more_than_asked_for_is_made_ahead() -> None:
    begun: list[int] = []

    def note(value: int) -> int:
        begun.append(value)
        return value

    results = in_order((partial(note, i) for i in range(100)), 1, 3, Waited())
    next(results)
    time.sleep(0.05)
    assert len(begun) <= 4
    results.close()  # type: ignore[attr-defined]


def test_leaving_cancels_what_has_not_begun() -> None:
    before = threading.active_count()
    results = in_order((partial(slow, i, 0.01) for i in range(1000)), 2, 500, Waited())
    start = time.perf_counter()
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert time.perf_counter() - start < 2.0
    assert threading.active_count() == before


@pytest.mark.parametrize("threaded", [False, True])
def test_the_next_thing_is_begun_when_one_is_taken(threaded: bool) -> None:
    made: list[int] = []

    def make(value: int) -> int:
        made.append(value)
        return value

    def makers() -> Iterator[Callable[[], int]]:
        yield from (partial(make, i) for i in range(3))

    ahead = Ahead(makers(), threaded)
    assert [ahead.take()() for _ in range(3)] == [0, 1, 2]
    with pytest.raises(AssertionError, match="more was taken"):
        ahead.take()
    ahead.close()
    assert made == [0, 1, 2]
