"""States are plain tensors: taken apart by user and put together again they are what they were."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ctr_rec.models.grab.config import Behaviours
from ctr_rec.models.grab.tower import GRABConfig
from ctr_rec.models.state import HistoryState
from ctr_rec.models.tower import SplitTower
from tests.models.streams import NUM_ACTIONS, Scorer, look_up, random_log

TWO = GRABConfig(
    width=6,
    heads=2,
    head_width=3,
    ffn=5,
    span=9,
    channels={"all": Behaviours(window=9), "liked": Behaviours(actions=(2, 3), window=9)},
)


def _state(seed: int = 3) -> HistoryState:
    scorer = Scorer(TWO)
    batch = scorer.batch(random_log(seed))
    assert isinstance(scorer.tower, SplitTower)
    with torch.no_grad():
        return scorer.tower.encode_history(look_up(batch), batch)


def _equal(left: HistoryState, right: HistoryState) -> None:
    assert left.channels.keys() == right.channels.keys()
    ours: list[torch.Tensor] = []
    theirs: list[torch.Tensor] = []
    left.apply(lambda t: (ours.append(t), t)[1])
    right.apply(lambda t: (theirs.append(t), t)[1])
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def test_users_taken_apart_and_joined_are_the_same_state() -> None:
    state = _state()
    users = [state.user(row) for row in range(state.num_users)]
    assert [u.num_events for u in users] == [11, 11, 11, 0]
    _equal(HistoryState.join(users), state)
    _equal(HistoryState.join(users[:1]), users[0])
    halves = [HistoryState.join(users[:1]), HistoryState.join(users[1:])]
    _equal(HistoryState.join(halves), state)


def test_the_newest_events_and_how_many_were_dropped() -> None:
    state = _state()
    last = state.user(1, newest=4)
    assert torch.equal(last.time, state.time[18:22])
    assert last.dropped.tolist() == [7]
    assert last.user(0, newest=3).dropped.tolist() == [8]
    assert state.user(1, newest=50).dropped.tolist() == [0]
    assert state.user(3, newest=4).num_events == 0
    liked, whole = last.channels["liked"], state.channels["liked"]
    assert liked.event_C is not None
    assert whole.event_C is not None
    inside = (whole.event_C >= 18) & (whole.event_C < 22)
    assert torch.equal(liked.event_C, whole.event_C[inside] - 18)
    assert torch.equal(liked.keys[1], whole.keys[1][inside])
    assert torch.equal(last.channels["all"].values[0], state.channels["all"].values[0][18:22])


def test_bytes_are_counted_and_a_clone_does_not_keep_the_batch() -> None:
    state = _state()
    user = state.user(0)
    liked = user.channels["liked"].event_C
    assert liked is not None
    # float64 keys and values of two layers, two heads of width 3; clocks, offsets and places of eight bytes.
    assert user.num_bytes == (11 + len(liked)) * 2 * 2 * 6 * 8 + (2 * 11 + len(liked) + 2 + 1) * 8
    clone = user.clone()
    _equal(clone, user)
    assert user.time.untyped_storage().nbytes() == state.time.untyped_storage().nbytes()
    assert clone.time.untyped_storage().nbytes() == 11 * 8
    _equal(user.to(torch.device("cpu")), user)


@pytest.mark.parametrize("part", ["impressions", "users"])
def test_the_state_reads_nothing_of_impressions_and_profiles(part: str) -> None:
    scorer = Scorer(TWO)
    assert isinstance(scorer.tower, SplitTower)
    batch = scorer.batch(random_log(3))
    embedded = look_up(batch)
    base = scorer.tower.encode_history(embedded, batch)
    level = getattr(batch, part)
    other = replace(batch, **{part: replace(level, numbers={n: v + 1 for n, v in level.numbers.items()})})
    embedded = replace(embedded, **{part: {n: v + 1 for n, v in getattr(embedded, part).items()}})
    _equal(scorer.tower.encode_history(embedded, other), base)


def test_events_of_the_batch_are_read_from_the_state_alone() -> None:
    scorer = Scorer(TWO)
    assert isinstance(scorer.tower, SplitTower)
    batch = scorer.batch(random_log(3))
    embedded = look_up(batch)
    state = scorer.tower.encode_history(embedded, batch)
    base = scorer.tower.score(state, embedded, batch)
    bare = replace(
        batch,
        event_action=(batch.event_action + 1) % NUM_ACTIONS,
        event_item=torch.zeros_like(batch.event_item),
        event_end=torch.zeros_like(batch.event_end),
        events=replace(batch.events, numbers={}, ids={}),
    )
    assert torch.equal(scorer.tower.score(state, replace(embedded, events={}), bare), base)
