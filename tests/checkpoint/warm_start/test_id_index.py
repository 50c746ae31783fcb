from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from ctr_rec.checkpoint.warm_start import id_index
from ctr_rec.checkpoint.warm_start.id_index import IdIndex, quick_hash


def by_hand(ours: list[str], theirs: list[str]) -> list[tuple[int, int]]:
    return [(o, t) for t, text in enumerate(theirs) for o, mine in enumerate(ours) if mine == text]


def found(ours: list[str], theirs: list[str]) -> list[tuple[int, int]]:
    pairs = IdIndex(pl.Series(ours, dtype=pl.String)).find(pl.Series(theirs, dtype=pl.String))
    return list(zip(*(p.tolist() for p in pairs), strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_finds_what_is_equal_in_the_order_of_the_batch(seed: int) -> None:
    random = np.random.default_rng(seed)
    ours = [f"id{n}" for n in random.integers(0, 60, 50)]  # some of them several times
    theirs = [f"id{n}" for n in random.permutation(90)]
    assert found(ours, theirs) == by_hand(ours, theirs)


def test_no_ids_find_nothing() -> None:
    assert found([], ["a"]) == []
    assert found(["a"], []) == []
    assert found(["a"], ["a"]) == [(0, 0)]


def test_ids_with_one_hash_are_told_apart_by_their_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash finds candidates and decides nothing: here all ids share it."""
    monkeypatch.setattr(id_index, "quick_hash", lambda ids: np.full(len(ids), 7 << 40, np.uint64))
    ours, theirs = [f"a{n}" for n in range(20)], [f"a{n}" for n in range(30, 5, -1)]
    assert found(ours, theirs) == by_hand(ours, theirs)


def test_the_hash_differs() -> None:
    assert len(np.unique(quick_hash(pl.Series([f"a{n}" for n in range(1000)])))) == 1000
