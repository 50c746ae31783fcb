"""Split run against the packed pass, for every tower with a state: values, isolation of candidates, and no leak."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ctr_rec.batch.batch import Batch
from ctr_rec.errors import ConfigError
from ctr_rec.layers.embedding import Embedded
from ctr_rec.models.baselines.din import DINConfig
from ctr_rec.models.ranker import Ranker
from ctr_rec.models.state import ChannelState, HistoryState
from ctr_rec.models.tower import Filling, SplitTower
from ctr_rec.serve.candidates import against, choose, reaches, score_candidates, split_parts
from tests.models.streams import CHANNELS, SPEC, Impression, Log, Scorer, look_up, random_log, spec_of
from tests.models.test_no_leak import CASES as TOWERS
from tests.models.test_no_leak import CHANGES, _changed

CASES = {
    name: tower
    for name, tower in TOWERS.items()
    if issubclass(type(tower.build(spec_of(tower), tuple(CHANNELS))), SplitTower)
}


def _tower(scorer: Scorer) -> SplitTower:
    assert isinstance(scorer.tower, SplitTower)
    return scorer.tower


def _split(
    scorer: Scorer, log: Log, micro_batch: int = 100, newest: int | None = None, stream: Log | None = None
) -> dict[int, float]:
    """Logits by key: each user's events to a state, its impressions against it. stream: events of another log."""
    batch = scorer.batch(log)
    inputs = look_up(batch)
    events = scorer.batch(stream or log)
    found = {}
    with torch.no_grad():
        states = _tower(scorer).encode_history(look_up(events), events)
        for user in batch.impression_user.unique().tolist():
            rows = (batch.impression_user == user).nonzero().squeeze(-1)
            own = choose(inputs, batch, rows)
            state = states.user(user, newest)
            logits = score_candidates(_tower(scorer), scorer.head, state, *own, micro_batch)
            found |= dict(zip(batch.impression_id[rows].tolist(), logits.tolist(), strict=True))
    return found


def _uneven(seed: int, delay: int = 0) -> Log:
    """Users with 11, 1, 4 and no event, ties of time among them; every impression of the first log stays."""
    log = random_log(seed, delay=delay)
    kept = {0: 11, 1: 1, 2: 4}
    events = [e for user, count in kept.items() for e in log.stream(user)[:count]]
    return replace(log, events=tuple(events))


def _logs() -> Iterator[Log]:
    yield random_log(3)
    yield random_log(4, delay=4)
    yield _uneven(5)
    yield _uneven(6, delay=7)
    # Candidates of a user without any event, and of an item that no stream has.
    log = _uneven(7)
    alone = replace(log.impressions[0], key=900, user=3, request_time=10_000)
    strange = replace(log.impressions[0], key=901, request_time=10_000, item=39)
    yield replace(log, impressions=(*log.impressions, alone, strange))


def test_every_tower_with_a_state_is_here() -> None:
    assert {name.partition("_")[0] for name in CASES} == {"grab", "hstu"}


@pytest.mark.parametrize("name", CASES)
def test_split_equals_packed(name: str) -> None:
    scorer = Scorer(CASES[name])
    for log in _logs():
        assert _split(scorer, log) == pytest.approx(scorer.score(log), rel=0, abs=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_split_equals_packed_in_single_precision(name: str) -> None:
    scorer = Scorer(CASES[name]).float()
    log = random_log(3)
    batch, embedded = _single(scorer.batch(log))
    with torch.no_grad():
        packed = scorer(embedded, batch)
        states = _tower(scorer).encode_history(embedded, batch)
        for user in range(log.num_users):
            rows = (batch.impression_user == user).nonzero().squeeze(-1)
            own = choose(embedded, batch, rows)
            got = score_candidates(_tower(scorer), scorer.head, states.user(user), *own, 3)
            torch.testing.assert_close(got, packed[rows], rtol=0, atol=1e-5)


def _single(batch: Batch) -> tuple[Batch, Embedded]:
    found = look_up(batch)
    parts = (found.users, found.items, found.events, found.impressions)
    embedded = Embedded(*({name: value.float() for name, value in part.items()} for part in parts))
    levels = {name: getattr(batch, name) for name in ("users", "items", "events", "impressions")}
    numbers = {
        name: replace(level, numbers={k: v.float() for k, v in level.numbers.items()}) for name, level in levels.items()
    }
    return replace(batch, **numbers), embedded


@pytest.mark.parametrize("name", CASES)
def test_candidates_do_not_see_each_other(name: str) -> None:
    """Alone, in threes, all at once, and beside copies of others: always the same."""
    scorer = Scorer(CASES[name])
    log = _uneven(5)
    together = _split(scorer, log)
    assert _split(scorer, log, micro_batch=1) == pytest.approx(together, rel=0, abs=1e-12)
    assert _split(scorer, log, micro_batch=3) == pytest.approx(together, rel=0, abs=1e-12)
    crowd = tuple(replace(i, key=500 + n, item=(i.item + 5) % 40) for n, i in enumerate(log.impressions * 3))
    crowded = _split(scorer, replace(log, impressions=(*crowd, *log.impressions)))
    assert {key: crowded[key] for key in together} == pytest.approx(together, rel=0, abs=1e-12)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", CHANGES)
def test_what_the_request_may_not_see_does_not_matter(name: str, kind: str) -> None:
    """The state is made of a log in which every hidden event was changed; the candidates are those of the first."""
    scorer, rng = Scorer(CASES[name]), random.Random(0)
    for log in (random_log(3), random_log(4, delay=4)):
        base = _split(scorer, log)
        for impression in log.impressions[::4]:
            hidden = {e.key for e in log.events if log.hidden(e, impression)}
            other = _changed(log, impression, hidden, CHANGES[kind], rng)
            alone = replace(log, impressions=(impression,))
            score = _split(scorer, alone, stream=other)[impression.key]
            assert score == pytest.approx(base[impression.key], rel=0, abs=1e-12), impression


@pytest.mark.parametrize("name", CASES)
def test_no_gradient_reaches_the_state_of_hidden_events(name: str) -> None:
    scorer = Scorer(CASES[name])
    log = random_log(4, delay=4)
    batch = scorer.batch(log)
    states = _tower(scorer).encode_history(look_up(batch), batch).apply(lambda t: t.detach())
    leaves = [t.requires_grad_() for c in states.channels.values() for t in (*c.keys, *c.values)]
    logits = scorer.head(_tower(scorer).score(states, look_up(batch), batch)).squeeze(-1)
    streams = [e for user in range(log.num_users) for e in log.stream(user)]
    for row, impression in enumerate(log.impressions):
        hidden = torch.tensor([log.hidden(e, impression) for e in streams])
        grads = iter(torch.autograd.grad(logits[row], leaves, retain_graph=True))
        for channel in states.channels.values():
            mine = hidden if channel.event_C is None else hidden[channel.event_C]
            for _ in range(2 * len(channel.keys)):
                grad = next(grads)
                assert not grad[mine].any(), impression


@pytest.mark.parametrize("name", CASES)
def test_a_state_need_hold_no_more_than_what_is_read(name: str) -> None:
    scorer = Scorer(CASES[name])
    log = random_log(3)
    log = replace(log, impressions=tuple(replace(i, request_time=9_000) for i in log.impressions))
    batch = scorer.batch(log)
    base, looks_back = scorer.score(log), _tower(scorer).looks_back
    assert _split(scorer, log, newest=looks_back) == pytest.approx(base, rel=0, abs=1e-12)
    if looks_back < 11:
        assert _split(scorer, log, newest=looks_back - 1) != pytest.approx(base, rel=0, abs=1e-12)
        states = _tower(scorer).encode_history(look_up(batch), batch)
        for newest, enough in ((looks_back, True), (looks_back - 1, False)):
            state = HistoryState.join([states.user(u, newest) for u in range(log.num_users)])
            assert reaches(state, against(state, batch), looks_back) is enough


def test_times_and_not_positions_decide_what_a_candidate_sees() -> None:
    scorer = Scorer(CASES["grab"])
    log = random_log(4, delay=4)
    batch = scorer.batch(log)
    states = _tower(scorer).encode_history(look_up(batch), batch)
    again = against(states, replace(batch, visible_end=torch.zeros_like(batch.visible_end)))
    assert torch.equal(again.visible_end, batch.visible_end)
    assert torch.equal(again.history_length, batch.history_length)
    dropped = replace(states, dropped=states.dropped + 5)
    assert torch.equal(against(dropped, batch).history_length, batch.history_length + 5)


def test_all_candidates_of_a_user_share_its_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = Scorer(CASES["grab"])
    batch = scorer.batch(random_log(3))
    embedded = look_up(batch)
    tower = _tower(scorer)
    state = tower.encode_history(embedded, batch).user(0)
    seen: list[ChannelState] = []
    score = type(tower).score

    def spy(self: SplitTower, state: HistoryState, embedded: Embedded, batch: Batch) -> Tensor:
        seen.append(state.channels["all"])
        return score(self, state, embedded, batch)

    monkeypatch.setattr(type(tower), "score", spy)
    rows = (batch.impression_user == 0).nonzero().squeeze(-1)
    score_candidates(tower, scorer.head, state, *choose(embedded, batch, rows), 2)
    assert len(seen) > 1
    assert {channel.keys[0].data_ptr() for channel in seen} == {state.channels["all"].keys[0].data_ptr()}


def test_no_candidates_give_no_logits() -> None:
    scorer = Scorer(CASES["hstu"])
    batch = scorer.batch(random_log(3))
    embedded = look_up(batch)
    state = _tower(scorer).encode_history(embedded, batch).user(0)
    none = choose(embedded, batch, torch.zeros(0, dtype=torch.int64))
    assert score_candidates(_tower(scorer), scorer.head, state, *none, 4).shape == (0,)


def test_towers_without_a_state_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"DINTower has no state of a history.*GRAB or HSTU"):
        split_parts(Ranker(SPEC, DINConfig(), ("all",)))
    assert DINConfig.filling is Filling.POINTWISE


def test_an_impression_is_one_users() -> None:
    """`choose` keeps who an impression belongs to, whatever users lie between."""
    scorer = Scorer(CASES["hstu"])
    batch = scorer.batch(random_log(3))
    rows = torch.tensor([0, batch.num_impressions - 1])
    _, chosen = choose(look_up(batch), batch, rows)
    assert torch.equal(chosen.user[chosen.impression_user], batch.user[batch.impression_user[rows]])
    assert torch.equal(chosen.item[chosen.impression_item], batch.item[batch.impression_item[rows]])
    assert isinstance(random_log(3).impressions[0], Impression)
    assert chosen.num_events == 0
