"""The generator: reproducible, shaped as asked, and switched effect by effect."""

from __future__ import annotations

import numpy as np
import pytest

from ctr_rec.batch.planted import CLICK, END, FOLLOW, LIKE, SEARCH, Effects, SyntheticConfig, make_world
from ctr_rec.batch.planted_content import ContentEffects
from ctr_rec.batch.synthetic import Events, chunks

SMALL = SyntheticConfig(users=60, items=40, requests_per_user=8)
# Of SMALL before there was alike content: sums of user, item, time, request, action; of p; a dot of content vectors.
OLD, OLD_CLICKS, OLD_DOT = [94108, 63756, 5671185568368, 5671923, 3992], 724.1562434063845, -0.36005255347632625


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


def test_without_alike_content_a_log_is_what_it_was_before_there_was_any() -> None:
    events, world = whole(SMALL), make_world(SMALL)
    shown = events.request >= 0
    old = ("user", "item", "time", "request", "action")
    found = [int(getattr(events, name).sum()) for name in old]
    assert found == OLD
    assert float(events.p[shown].sum()) == pytest.approx(OLD_CLICKS, rel=1e-9)
    assert float((world.content[0] * world.content[1]).sum()) == pytest.approx(OLD_DOT, rel=1e-9)
    assert events.scene.max() == 0
    # Everything that belongs to alike content but is read by no effect leaves the rest alone.
    unread = whole(SMALL.model_copy(update={"scenes": 3, "recent": 20, "enough": 2, "per_family": 2}))
    assert [int(getattr(unread, name).sum()) for name in old] == OLD


def test_every_effect_has_a_switch() -> None:
    still = whole(SMALL.model_copy(update={"effects": Effects()}))
    p = still.p[still.request >= 0]
    assert p.min() == p.max()
    for name in Effects.model_fields:
        world = {"clusters": 6, "per_family": 2, "content_dim": 12, "scenes": 2, "recent": 10, "enough": 8}
        alike = world if name in ContentEffects.model_fields else {}
        events = whole(SMALL.model_copy(update={"effects": Effects(**{name: 2.0}), **alike}))
        logit = np.log(events.p / (1 - events.p))[events.request >= 0]
        assert logit.std() > 0.1, name
        assert abs(logit.mean() - SMALL.bias) < 0.4, name
