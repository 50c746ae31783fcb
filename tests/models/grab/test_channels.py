"""Ranges in compacted channels are exactly the pairs that the rule, the windows and the subset allow, one by one."""

from __future__ import annotations

import pytest
import torch

from ctr_rec.layers.packed import by_visible_end
from ctr_rec.models.grab.channels import Sight
from ctr_rec.models.grab.config import Behaviours
from ctr_rec.models.grab.tower import GRABConfig
from ctr_rec.models.tower import Filling
from tests.models.streams import Event, Log, make_batch, random_log

CASES = {
    "all": Behaviours(window=50),
    "newest": Behaviours(window=2),
    "subset": Behaviours(actions=(1, 3), window=50),
    "newest_of_subset": Behaviours(actions=(0, 2), window=2),
    "young": Behaviours(window=50, seconds=20),
    "young_of_subset": Behaviours(actions=(0, 1, 2), window=3, seconds=30),
    "empty": Behaviours(actions=(3,), window=1, seconds=1),
}


def _allowed(log: Log, user: int, until: int, now: int, behaviours: Behaviours, span: int, strict: bool) -> list[int]:
    """Keys a query sees, by the words of the papers: known before it, of its user, in the span, in W_t, newest L_w."""
    stream = log.stream(user)
    seen = [e for e in stream if (e.time + log.delay < until if strict else e.time + log.delay <= until)][-span:]
    if behaviours.seconds is not None:
        seen = [e for e in seen if e.time + log.delay >= now - behaviours.seconds]
    if behaviours.actions is not None:
        seen = [e for e in seen if e.action in behaviours.actions]
    return [e.key for e in seen[-behaviours.window :]]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("seed", "delay"), [(1, 0), (2, 4)])
@pytest.mark.parametrize("span", [4, 100])
def test_ranges_hold_exactly_what_may_be_seen(name: str, seed: int, delay: int, span: int) -> None:
    behaviours = CASES[name].model_copy(update={"window": min(CASES[name].window, span)})
    log = random_log(seed=seed, delay=delay, num_events=17)
    batch = make_batch(log, Filling.PACKED)
    order = by_visible_end(batch)
    sight = Sight(behaviours, GRABConfig(span=span, channels={name: behaviours}), 1)
    channel = sight.channel(batch)
    candidates = sight.candidates(channel.event_C, batch, order)
    stream = [e for user in range(log.num_users) for e in log.stream(user)]
    events = stream if channel.event_C is None else [stream[i] for i in channel.event_C.tolist()]

    def keys(lo: torch.Tensor, hi: torch.Tensor, query: int) -> list[int]:
        return [e.key for e in events[int(lo[query]) : int(hi[query])]]

    for query, n in enumerate(order.tolist()):
        i = log.impressions[n]
        want = _allowed(log, i.user, i.request_time, i.request_time, behaviours, span, strict=True)
        assert keys(candidates.lo, candidates.hi, query) == want, i
    assert channel.seen is not None
    for query, event in enumerate(events):
        now = event.time + log.delay
        want = _allowed(log, event.user, now, now, behaviours, span, strict=False)
        assert keys(channel.seen.lo, channel.seen.hi, query) == want, event


def test_rows_and_actions_are_those_of_the_channels_events() -> None:
    log = random_log(seed=1)
    batch = make_batch(log, Filling.PACKED)
    config = GRABConfig(layers=1)
    some = Sight(Behaviours(actions=(2,)), config, 1).channel(batch)
    x = torch.arange(batch.num_events)
    assert (batch.event_action[some.rows(x)] == 2).all()
    assert some.action_C.shape == some.rows(x).shape
    assert some.seen is None, "a single layer needs no history queries"
    assert Sight(Behaviours(), config, 1).channel(batch).rows(x) is x


def test_a_channel_without_events_is_empty_and_not_an_error() -> None:
    log = random_log(seed=1)
    quiet = Log(tuple(_with_action(e, 0) for e in log.events), log.impressions, log.num_users)
    batch = make_batch(quiet, Filling.PACKED)
    sight = Sight(Behaviours(actions=(3,)), GRABConfig(), 1)
    channel = sight.channel(batch)
    candidates = sight.candidates(channel.event_C, batch, by_visible_end(batch))
    assert channel.action_C.shape == (0,)
    assert (candidates.lo == candidates.hi).all()


def _with_action(event: Event, action: int) -> Event:
    return Event(**{**vars(event), "action": action})
