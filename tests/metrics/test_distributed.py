import threading
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pytest

from ctr_rec.errors import DataError
from ctr_rec.metrics.distributed import gather_metrics, gather_window
from ctr_rec.metrics.mergeable import ExactMetrics, all_metrics
from ctr_rec.metrics.window import WindowMetrics
from ctr_rec.sharding.group import Group
from tests.ranks import run_ranks

T = TypeVar("T")


class Threads:
    """Ranks as threads of one process: a group that refuses what a real one refuses."""

    def __init__(self, size: int) -> None:
        self.slots: list[Any] = [None] * size
        self.barrier = threading.Barrier(size, timeout=10)

    def exchange(self, index: int, value: Any) -> list[Any]:
        self.slots[index] = value
        self.barrier.wait()
        values = list(self.slots)
        self.barrier.wait()
        return values


class Member:
    def __init__(self, ranks: Threads, index: int) -> None:
        self.ranks, self.index = ranks, index

    def all_gather_object(self, value: Any) -> list[Any]:
        return self.ranks.exchange(self.index, value)

    def gather_arrays(self, array: np.ndarray) -> np.ndarray:
        parts = self.ranks.exchange(self.index, array)
        assert len({part.dtype for part in parts}) == 1, [part.dtype for part in parts]
        return np.concatenate(parts)


def _on_ranks(size: int, work: Callable[[Member], T]) -> list[T]:
    ranks, results = Threads(size), {}

    def call(index: int) -> None:
        try:
            results[index] = work(Member(ranks, index))
        except DataError as error:
            results[index] = error

    threads = [threading.Thread(target=call, args=(index,)) for index in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[index] for index in range(size)]


def _rows() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    score = np.round(generator.normal(size=999), 2).astype(np.float32)
    return generator.integers(0, 2, 999), score, generator.integers(0, 50, 999)


@pytest.mark.parametrize("names", [False, True])
def test_ranks_agree_with_one_process_to_the_bit(names: bool) -> None:
    label, score, group = _rows()
    ids = np.array([f"ü{g}" for g in group]) if names else group
    rank = np.random.default_rng(1).integers(0, 2, 999) * 2  # rank 1 has nothing

    def work(member: Member) -> dict[str, float]:
        state, mine = ExactMetrics(), rank == member.index
        # One rank holds wider scores, as after a restore.
        state.update(label[mine], score[mine].astype(np.float64 if member.index else np.float32), ids[mine])
        return gather_metrics(state, member).compute()

    expected = all_metrics(label, score, ids)
    assert _on_ranks(3, work) == [expected] * 3


def test_ranks_that_all_have_nothing_compute_nothing() -> None:
    found = _on_ranks(2, lambda member: gather_metrics(ExactMetrics(), member).compute())
    assert [metrics["impressions"] for metrics in found] == [0, 0]


def test_ranks_with_ids_of_two_types_are_refused() -> None:
    def work(member: Member) -> ExactMetrics:
        state = ExactMetrics()
        state.update([1], [0.0], [1] if member.index else ["a"])
        return gather_metrics(state, member)

    for error in _on_ranks(2, work):
        assert "expected user ids of one type, got integers and strings" in str(error)


def test_the_window_covers_all_ranks() -> None:
    label, score, _ = _rows()

    def work(member: Member) -> dict[str, float]:
        window = WindowMetrics(capacity=100)
        if member.index < 2:
            window.update(label[member.index :: 2], score[member.index :: 2])
        return gather_window(window, member)

    last = [np.concatenate([column[0::2][-100:], column[1::2][-100:]]) for column in (label, score)]
    expected = WindowMetrics(200)
    expected.update(*last)
    assert _on_ranks(3, work) == [expected.compute()] * 3


def _on_a_real_group(group: Group) -> dict[str, float]:
    label, score, users = _rows()
    state, mine = ExactMetrics(), users % 3 == group.index
    state.update(label[mine], score[mine], users[mine])
    return {key: float(value) for key, value in gather_metrics(state, group).compute().items()}


def test_a_real_group_of_gloo_ranks_agrees() -> None:
    label, score, users = _rows()
    mine = users % 3 < 2
    expected = all_metrics(label[mine], score[mine], users[mine])
    assert run_ranks(_on_a_real_group, 2) == [expected] * 2
