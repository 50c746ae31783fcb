"""Who shares a batch: every impression once, budgets kept, context complete."""

from __future__ import annotations

import numpy as np
import pytest

from ctr_rec.batch import packing
from ctr_rec.batch.packing import Impressions, Packs, Pieces, _Line, alone, pack, scatter


def impressions(seed: int, users: int, longest: int) -> tuple[Impressions, int]:
    """Random impressions in canonical order, and the number of events of all users."""
    random = np.random.default_rng(seed)
    lengths = random.integers(0, longest + 1, users)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    visible, user = [], []
    for u in range(users):
        count = int(random.integers(0, 6)) if lengths[u] < 30 else int(random.integers(0, 60))
        visible.append(starts[u] + np.sort(random.integers(0, lengths[u] + 1, count)))
        user.append(np.full(count, u))
    bounds = np.searchsorted(np.concatenate(user), np.arange(users + 1))
    return Impressions(np.concatenate(visible), bounds, starts[:-1]), int(starts[-1])


def batch(packs: Packs, index: int) -> Pieces:
    return packs.pieces.take(slice(packs.bounds[index], packs.bounds[index + 1]))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("budget", "reach"), [(7, 2), (30, 10), (200, 90), (400, 3)])
def test_packed_batches(seed: int, budget: int, reach: int) -> None:
    found, events = impressions(seed, users=15, longest=150)
    n = len(found.user)
    tokens = min(events, n * reach) + n
    num_batches = -(-tokens // (budget - reach))
    random = np.random.default_rng(seed) if seed % 3 else None
    packs = pack(found, reach, num_batches, random)
    assert sorted(packs.pieces.impressions().tolist()) == list(range(n))
    start_of = found.start[found.user]
    for b in range(num_batches):
        pieces = batch(packs, b)
        chosen = pieces.impressions()
        assert len(chosen) == pieces.num_impressions.sum() >= 1
        assert (np.diff(chosen) > 0).all()
        assert (pieces.end - pieces.start).sum() + len(chosen) <= budget
        start = np.repeat(pieces.start, pieces.num_impressions)
        end = np.repeat(pieces.end, pieces.num_impressions)
        assert (np.repeat(pieces.user, pieces.num_impressions) == found.user[chosen]).all()
        assert (start >= start_of[chosen]).all()
        assert (end >= found.visible[chosen]).all()
        whole = np.minimum(found.visible[chosen] - start_of[chosen], reach)
        assert (found.visible[chosen] - start >= whole).all()
        assert (pieces.start[1:] >= pieces.end[:-1]).all()


def test_a_user_shorter_than_the_context_is_not_cut() -> None:
    visible = np.concatenate([10 * u + np.arange(10) for u in range(20)])
    found = Impressions(visible, np.arange(0, 201, 10), np.arange(0, 200, 10))
    packs = pack(found, reach=20, num_batches=9, random=np.random.default_rng(0))
    assert (packs.pieces.num_impressions == 10).all()


def test_far_impressions_of_one_user_leave_out_what_lies_between() -> None:
    found = Impressions(np.array([5, 100, 101, 900]), np.array([0, 4]), np.array([0]))
    pieces = batch(pack(found, reach=10, num_batches=1, random=None), 0)
    assert pieces.start.tolist() == [0, 90, 890]
    assert pieces.end.tolist() == [5, 101, 900]
    assert pieces.num_impressions.tolist() == [1, 2, 1]


@pytest.mark.parametrize(("n", "batches"), [(1, 1), (10, 3), (10, 10), (70_000, 66_000)])
def test_scattered_batches_are_nearly_equal(n: int, batches: int) -> None:
    portions = scatter(n, batches, np.random.default_rng(0))
    sizes = np.diff(portions.bounds)
    assert sizes.max() - sizes.min() <= 1
    assert sorted(portions.order.tolist()) == list(range(n))
    assert all((np.diff(portions.batch(b)) > 0).all() for b in range(min(batches, 50)))
    assert scatter(n, batches, None).order.tolist() == list(range(n))


@pytest.mark.parametrize("history", [1, 7, None])
def test_alone_every_impression_has_a_piece(history: int | None) -> None:
    found, _ = impressions(0, users=15, longest=150)
    n = len(found.visible)
    made, scattered = alone(found, history, 9, np.random.default_rng(4)), scatter(n, 9, np.random.default_rng(4))
    assert made.pieces.first.tolist() == scattered.order.tolist()
    assert made.bounds.tolist() == scattered.bounds.tolist()
    assert not made.shared
    for piece in range(n):
        number = int(made.pieces.first[piece])
        user = int(found.user[number])
        events = list(range(int(found.start[user]), int(found.visible[number])))
        given = events if history is None else events[-history:]
        assert list(range(int(made.pieces.start[piece]), int(made.pieces.end[piece]))) == given
        assert (int(made.pieces.user[piece]), int(made.pieces.num_impressions[piece])) == (user, 1)


def test_the_line_counts_what_a_sum_over_all_impressions_counts() -> None:
    for seed in range(20):
        found, _ = impressions(seed, users=15, longest=150)
        first = found.bounds[:-1][np.diff(found.bounds) > 0]
        added = np.diff(found.visible, prepend=0)
        added[first] = found.visible[first] - found.start[found.user[first]]
        ends = np.cumsum(np.minimum(added, 12) + 1)
        line = _Line.of(found, first, 12)
        assert line.ends[-1] == ends[-1]
        assert line.before(first).tolist() == np.append(0, ends)[first].tolist()
        tokens = np.arange(ends[-1])
        assert line.find(tokens).tolist() == np.searchsorted(ends, tokens, side="right").tolist()


def test_long_columns_are_looked_at_in_parts_that_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    visible = np.cumsum(np.random.default_rng(0).integers(0, 9, 50))
    whole = np.flatnonzero(np.diff(visible) > 5) + 1
    for cached in (1, 7, 49, 50, 99):
        monkeypatch.setattr(packing, "CACHED", cached)
        assert packing._leaps(visible, 5).tolist() == whole.tolist()
        assert packing._leaps(visible[:1], 5).tolist() == []
