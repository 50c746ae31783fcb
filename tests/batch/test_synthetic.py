"""The generator: reproducible, shaped as asked, and switched effect by effect."""

from __future__ import annotations

import numpy as np

from ctr_rec.batch.planted import CLICK, END, FOLLOW, LIKE, SEARCH, Effects, SyntheticConfig
from ctr_rec.batch.synthetic import Events, chunks

SMALL = SyntheticConfig(users=60, items=40, requests_per_user=8)


def whole(config: SyntheticConfig) -> Events:
    (events,) = chunks(config)
    return events


def same(a: Events, b: Events) -> bool:
    columns = Events.__dataclass_fields__
    return all(np.array_equal(getattr(a, name), getattr(b, name), equal_nan=name == "p") for name in columns)


def test_the_seed_decides() -> None:
    assert same(whole(SMALL), whole(SMALL))
    assert not same(whole(SMALL), whole(SMALL.model_copy(update={"seed": 2})))


def test_sizes_are_as_asked() -> None:
    config = SyntheticConfig(users=50, items=30, requests_per_user=7, requests_sigma=0, candidates=5, onboarding=3)
    events = whole(config)
    shown = events.request >= 0
    assert shown.sum() == 50 * 7 * 5
    assert len(np.unique(events.request[shown])) == 50 * 7
    assert (events.action == FOLLOW).sum() == 50 * 3
    assert 0.35 < (events.action == SEARCH).sum() / (50 * 7) < 0.65
    assert np.isnan(events.p[~shown]).all()
    assert ((events.p[shown] > 0) & (events.p[shown] < 1)).all()
    per_request = np.stack([events.request[shown], events.item[shown]])
    assert np.unique(per_request, axis=1).shape[1] == shown.sum(), "an item twice in one request"
    assert events.time.max() < END
    assert events.time[shown].min() >= END - config.days * 86_400


def test_requests_of_a_user_do_not_meet_unless_asked() -> None:
    apart = whole(SMALL.model_copy(update={"dwell": 20}))
    assert overlaps(apart) == 0
    assert overlaps(whole(SMALL.model_copy(update={"dwell": 20, "interleave": 1.0}))) > 100


def overlaps(events: Events) -> int:
    """Changes of request between neighbours in time, beyond one per request."""
    shown = events.request >= 0
    request = events.request[shown]
    return int((request[1:] != request[:-1]).sum()) - (len(np.unique(request)) - 1)


def test_clicks_follow_their_probability() -> None:
    config = SyntheticConfig(users=600, items=40, requests_per_user=20, requests_sigma=0)
    events = whole(config)
    shown = events.request >= 0
    clicked, p = np.isin(events.action[shown], (CLICK, LIKE)), events.p[shown]
    for low, high in ((0, 0.2), (0.2, 0.5), (0.5, 1)):
        inside = (p >= low) & (p < high)
        error = np.sqrt((p[inside] * (1 - p[inside])).sum())
        assert abs(clicked[inside].sum() - p[inside].sum()) < 4 * error
    assert 0.45 < (events.action == LIKE).sum() / clicked.sum() < 0.55


def test_every_effect_has_a_switch() -> None:
    still = whole(SMALL.model_copy(update={"effects": Effects()}))
    p = still.p[still.request >= 0]
    assert p.min() == p.max()
    for name in Effects.model_fields:
        events = whole(SMALL.model_copy(update={"effects": Effects(**{name: 2.0})}))
        logit = np.log(events.p / (1 - events.p))[events.request >= 0]
        assert logit.std() > 0.1, name
        assert abs(logit.mean() - SMALL.bias) < 0.4, name
