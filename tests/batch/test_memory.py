"""Memory goes round, but never while somebody holds an array or a tensor on it."""

from __future__ import annotations

import threading

import numpy as np
import torch

from ctr_rec.batch.memory import LINE, Memory


def test_arrays_have_the_types_and_lengths_asked_for() -> None:
    found = Memory().arrays({"a": (np.int64, 5), "b": (np.bool_, 3), "c": (np.float32, 0), "d": (np.int16, 70)})
    assert {n: (a.dtype, len(a)) for n, a in found.items()} == {
        "a": (np.dtype(np.int64), 5),
        "b": (np.dtype(bool), 3),
        "c": (np.dtype(np.float32), 0),
        "d": (np.dtype(np.int16), 70),
    }
    found["a"][:], found["b"][:], found["d"][:] = 1, True, 2
    assert found["a"].tolist() == [1] * 5
    begin = found["a"].ctypes.data
    assert all((a.ctypes.data - begin) % LINE == 0 for a in found.values() if len(a))


def address(memory: Memory, count: int) -> int:
    return memory.arrays({"x": (np.int64, count)})["x"].ctypes.data


def test_what_nobody_holds_is_used_again() -> None:
    memory = Memory()
    first = address(memory, 1000)
    assert address(memory, 1000) == address(memory, 10) == first
    address(memory, 100_000)
    assert len(memory._blocks) == 1  # what was too small is gone


def test_what_somebody_holds_is_left_alone() -> None:
    memory = Memory()
    held = memory.arrays({"x": (np.int64, 1000)})["x"]
    held[:] = 7
    view, begin = torch.from_numpy(held[10:20]), held.ctypes.data
    del held
    for _ in range(3):
        assert address(memory, 1000) != begin
        memory.arrays({"x": (np.int64, 1000)})["x"].fill(0)
    assert view.tolist() == [7] * 10
    del view
    assert begin in {address(memory, 1000), *(b.ctypes.data for b in memory._blocks)}


def test_two_threads_never_get_the_same_memory() -> None:
    memory, wrong = Memory(), []

    def use(value: int) -> None:
        for _ in range(300):
            mine = memory.arrays({"x": (np.int64, 500)})["x"]
            mine.fill(value)
            if (mine != value).any():
                wrong.append(value)

    threads = [threading.Thread(target=use, args=(v,)) for v in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
