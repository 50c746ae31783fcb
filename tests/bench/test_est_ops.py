"""Both forms of cross-attention compute one function; memory is a process' own; searches find what they are to find."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ctr_rec.bench import est_ops
from ctr_rec.bench.est_ops import difference, emit_attention, emit_retrieval, make_keys, peak_bytes, searches, step


@pytest.mark.parametrize("heads", [1, 2])
def test_both_forms_agree(heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = make_keys([3, 1, 9, 4], queries=5, heads=heads, width=8)
    assert difference(keys) < 1e-5
    assert all(x.abs().sum() > 0 for x in step("jagged", keys))
    monkeypatch.setitem(est_ops.FORMS, "padded", lambda keys: est_ops.jagged(keys) * 1.01)
    assert difference(keys) > 1e-3


def test_memory_is_that_of_a_process_of_its_own() -> None:
    """The two rectangles of 64 x 500 keys of 64 floats alone take 16 MB, whatever this process has used before."""
    used_before = torch.ones(50_000_000)
    assert peak_bytes("padded", [500] + [1] * 63, runs=1) > 1.6e7
    assert used_before.sum() > 0


def test_searches() -> None:
    found = {name: search() for name, search in searches(3, 70, 4).items()}
    assert found["similarity"].offsets.tolist() == [0, 50, 100, 150]
    assert 0 < len(found["category"].values) < 30


def test_what_is_emitted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("IMPRESSIONS", 6), ("MEAN", 4), ("EVENTS", 60), ("CANDIDATES", 2), ("CONTENT", (4, 8))):
        monkeypatch.setattr(est_ops, name, value)
    monkeypatch.setattr(est_ops, "peak_bytes", lambda form, lengths: {"jagged": 2.0, "padded": 3.0}[form])
    figures: list[tuple[Any, ...]] = []

    def emit(*figure: Any, **more: Any) -> None:
        figures.append((*figure[1:4], more.get("ratio")))

    emit_attention(emit, runs=1)
    emit_retrieval(emit, runs=1)
    assert len(figures) == 2 * 4 + 3
    assert all(value > 0 for _, _, value, _ in figures)
    memory = [ratio for _, what, _, ratio in figures if "memory" in what]
    assert memory == [1.5, 1.5]
