"""Effects of alike content: each is the stated function of the stored vectors, and nothing where it is off."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from ctr_rec.batch.planted import CLICK, FOLLOW, LIKE, Effects, SyntheticConfig, World, make_world
from ctr_rec.batch.planted_content import Float64, Int64, make_past, stored_content
from ctr_rec.batch.synthetic import Events, chunks
from ctr_rec.errors import ConfigError
from ctr_rec.metrics.ranking import auc

SMALL = SyntheticConfig(
    users=12, items=600, requests_per_user=8, requests_sigma=0.4, clusters=12, per_family=3, content_dim=32, recent=12
)
ALONE = {
    "lifelong_taste": SMALL.model_copy(
        update={"onboarding": 40, "episode": 5, "enough": 3, "effects": Effects(lifelong_taste=3.0)}
    ),
    "content_interest": SMALL.model_copy(update={"effects": Effects(content_interest=2.0)}),
    "neighbour_context": SMALL.model_copy(update={"effects": Effects(neighbour_context=3.0), "groups": 5}),
    "token_interaction": SMALL.model_copy(
        update={"effects": Effects(token_interaction=3.0), "scenes": 3, "clusters": 0, "per_family": 1}
    ),
}
LATE = {"dwell": 40, "interleave": 0.7, "action_delay": 90}


@cache
def log_of(config_json: str) -> tuple[SyntheticConfig, World, Events]:
    config = SyntheticConfig.model_validate_json(config_json)
    (events,) = chunks(config)
    return config, make_world(config), events


def made(config: SyntheticConfig) -> tuple[SyntheticConfig, World, Events]:
    return log_of(config.model_dump_json())


def visible(config: SyntheticConfig, events: Events, of: int) -> Int64:
    """Numbers of the events that an impression sees, oldest first."""
    request_time = events.time[events.request == events.request[of]].min()
    seen = np.flatnonzero((events.user == events.user[of]) & (events.time + config.action_delay < request_time))
    return seen[np.argsort(events.time[seen], kind="stable")]


def statistics(config: SyntheticConfig, world: World, events: Events, content: Float64, of: int) -> dict[str, float]:
    """The formulas of batch/planted_content.py, one event after the other, alike and near told by cosines alone."""
    unit = content / np.linalg.norm(content, axis=1, keepdims=True)
    past, me = visible(config, events, of), events.item[of]
    far, recent = past[: -config.recent], past[-config.recent :]

    def alike(i: int, j: int) -> bool:
        return float(unit[i] @ unit[j]) > 0.72

    def near(i: int, j: int) -> bool:
        return 0.25 < float(unit[i] @ unit[j]) <= 0.72

    def taste(event: int) -> float:
        return float(world.taste[me] @ world.taste[events.item[event]]) - 1 / config.groups

    found = dict.fromkeys(ALONE, 0.0)
    if len(far):
        n = sum(alike(me, events.item[e]) for e in far)
        found["lifelong_taste"] = min(n, config.enough) / config.enough - 0.5
    a, b = (sum(kind(me, events.item[e]) for e in recent) for kind in (near, alike))
    everything = unit @ unit[me]
    p_a, p_b = ((everything > 0.25) & (everything <= 0.72)).mean(), (everything > 0.72).mean()
    found["content_interest"] = np.log1p(a) - np.log1p(len(recent) * p_a) - np.log1p(b) + np.log1p(len(recent) * p_b)
    found["neighbour_context"] = 0.0
    for j in recent:
        count = sum(alike(events.item[j], events.item[k]) for k in recent if k != j)
        by_chance = (len(recent) - 1) * (unit @ unit[events.item[j]] > 0.72).mean()
        found["neighbour_context"] += taste(j) * (count - by_chance) / np.sqrt(config.recent)
    here = [config.scenes * (events.scene[j] == events.scene[of]) - 1 for j in recent]
    found["token_interaction"] = sum(w * taste(j) for w, j in zip(here, recent, strict=True)) / np.sqrt(config.recent)
    return found


@pytest.mark.parametrize("late", [False, True], ids=["at once", "late and interleaved"])
@pytest.mark.parametrize("name", list(ALONE))
def test_clicks_are_the_stated_function_of_what_is_visible(name: str, late: bool) -> None:
    config, world, events = made(ALONE[name].model_copy(update=LATE if late else {}))
    shown = np.flatnonzero(events.request >= 0)
    content = stored_content(config, config.seed, world.content)
    strength = getattr(config.effects, name)
    expected = [config.bias + strength * statistics(config, world, events, content, of)[name] for of in shown]
    logit = np.log(events.p[shown] / (1 - events.p[shown]))
    np.testing.assert_allclose(logit, expected, rtol=1e-9, atol=1e-9)
    assert logit.std() > 0.3
    assert len(np.unique(logit.round(6))) > (3 if name == "lifelong_taste" else 20)


@pytest.mark.parametrize("name", ["lifelong_taste", "content_interest"])
def test_the_statistic_of_stored_vectors_is_the_best_and_that_of_shuffled_ones_is_none(name: str) -> None:
    config, world, events = made(ALONE[name].model_copy(update={"users": 60}))
    shuffled = config.model_copy(update={"content": "shuffled"})
    (same_clicks,) = chunks(shuffled)
    assert np.array_equal(same_clicks.action, events.action), "a placebo leaves the clicks alone"
    shown = np.flatnonzero(events.request >= 0)
    label = np.isin(events.action[shown], (CLICK, LIKE)).astype(np.int8)
    reached = {}
    for one in (config, shuffled):
        content = stored_content(one, one.seed, world.content)
        score = np.array([statistics(one, world, events, content, of)[name] for of in shown[::3]])
        reached[one.content] = auc(label[::3], score)
    best = auc(label[::3], events.p[shown][::3])
    assert reached["own"] == pytest.approx(best, abs=1e-3)  # equal counts may differ in the last bit
    assert reached["own"] > 0.65
    assert abs(reached["shuffled"] - 0.5) < 0.06


def test_cosines_tell_alike_near_and_unlike_items_apart() -> None:
    config = SMALL.model_copy(update={"clusters": 24})
    world = make_world(config)
    cluster, family = world.clusters.cluster, world.clusters.family
    assert np.bincount(cluster).tolist() == [25] * 24
    assert np.bincount(family).tolist() == [75] * 8
    cosine = world.content @ world.content.T
    same, akin = cluster[:, None] == cluster, family[:, None] == family
    np.fill_diagonal(same, False)
    for pairs, mean in ((same, 0.96), (akin & (cluster[:, None] != cluster), 0.48), (~akin, 0.0)):
        assert cosine[pairs].mean() == pytest.approx(mean, abs=0.02)
    assert cosine[same].min() > cosine[akin & (cluster[:, None] != cluster)].max()
    table = np.histogram2d(cluster, world.group, bins=(24, 6))[0]
    assert table.max() < 14, "a cluster is no group: 25 / 6 of each were expected"


def test_shuffled_content_is_the_vectors_of_other_items() -> None:
    world = make_world(SMALL)
    moved = stored_content(SMALL.model_copy(update={"content": "shuffled"}), SMALL.seed, world.content)
    assert (moved != world.content).any(axis=1).mean() > 0.99
    assert np.array_equal(np.sort(moved, axis=0), np.sort(world.content, axis=0))
    assert stored_content(SMALL, SMALL.seed, world.content) is world.content


def test_follows_come_in_runs_of_one_cluster() -> None:
    config, world, events = made(ALONE["lifelong_taste"])
    follows = events.item[events.action == FOLLOW].reshape(config.users, -1, config.episode)
    cluster = world.clusters.cluster[follows]
    assert (cluster == cluster[:, :, :1]).all()
    assert len(np.unique(cluster[0, :, 0])) > 2
    past = make_past(config, world.clusters, (config.seed, 0), (3, 7), 4)
    assert past.item_UF is not None
    assert past.item_UF.shape == (3, 7), "the last run is cut"


def test_scenes_are_one_per_request_and_leave_the_rest_alone() -> None:
    config, _, events = made(ALONE["token_interaction"])
    shown = events.request >= 0
    pairs = np.unique(np.stack([events.request[shown], events.scene[shown]]), axis=1)
    assert pairs.shape[1] == len(np.unique(events.request[shown]))
    assert np.bincount(events.scene[~shown]).min() > 10
    assert np.bincount(events.scene).shape == (3,)
    none = config.model_copy(update={"effects": Effects(), "scenes": 0})
    (without,), (with_scenes,) = chunks(none), chunks(none.model_copy(update={"scenes": 3}))
    assert without.scene.max() == 0
    assert np.array_equal(with_scenes.item, without.item)
    assert np.array_equal(with_scenes.action, without.action)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"clusters": 9}, "centres in 9 directions, got content_dim 8; raise content_dim to 9"),
        ({"clusters": 8, "per_family": 3}, "centres in 11 directions, got content_dim 8"),
        ({"clusters": 6, "items": 5, "groups": 2}, "items >= clusters, got 5 items, 6 clusters"),
        ({"episode": 4}, "episode needs items that are alike, expected clusters >= 2, got 0"),
        ({"episode": 4, "clusters": 4, "onboarding": 0, "effects": Effects()}, "onboarding >= 1, got 0"),
        ({"effects": Effects(lifelong_taste=1.0)}, r"effects.lifelong_taste needs items.*clusters >= 2, got 0"),
        ({"effects": Effects(neighbour_context=1.0), "clusters": 1}, "effects.neighbour_context needs.*got 1"),
        ({"effects": Effects(content_interest=1.0), "clusters": 4}, "expected per_family >= 2.*got 1 of 4 clusters"),
        ({"effects": Effects(token_interaction=1.0), "scenes": 1}, "expected scenes >= 2, got 1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=words):
        SyntheticConfig(**settings)  # pyright: ignore[reportArgumentType]
