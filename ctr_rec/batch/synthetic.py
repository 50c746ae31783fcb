"""A seeded generator of logs whose click probability is known (planted.py says what it depends on).

Users are simulated side by side, one request of each per step; those with many requests stand first, so that the
active ones are a prefix.

Legend: U users of a chunk, n of them active, K requests of a user, C candidates of a request, F follows of a user.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ctr_rec.batch.planted import (
    CLICK,
    DAY,
    END,
    FOLLOW,
    HOUR,
    LIKE,
    MINUTE,
    NEVER,
    SEARCH,
    SKIP,
    Float64,
    History,
    Int64,
    SyntheticConfig,
    World,
    make_world,
)
from ctr_rec.batch.planted_content import make_past

SEARCH_LEAD = 30  # seconds between a search and the request it precedes
CHUNK_USERS = 10_000  # simulated together; part of what the seed means


@dataclass(frozen=True)
class Events:
    """Events of some users, one array entry each. request is -1 and p is NaN where the event is no impression;
    scene is 0 where the log has no scenes."""

    user: Int64
    item: Int64
    time: Int64
    request: Int64
    action: Int64
    p: Float64
    scene: Int64

    def __len__(self) -> int:
        return len(self.user)


def chunks(config: SyntheticConfig) -> Iterator[Events]:
    """The whole log, CHUNK_USERS users at a time; a function of the config alone."""
    world = make_world(config)
    for number, first in enumerate(range(0, config.users, CHUNK_USERS)):
        rng = np.random.default_rng([config.seed, 1, number])
        yield _simulate(config, world, rng, number, min(CHUNK_USERS, config.users - first))


def _simulate(config: SyntheticConfig, world: World, rng: np.random.Generator, number: int, count: int) -> Events:
    requests = np.full(count, config.requests_per_user)
    if config.requests_sigma:
        drawn = config.requests_per_user * np.exp(config.requests_sigma * rng.normal(size=count))
        requests = np.clip(np.rint(drawn), 1, config.most_requests).astype(np.int64)
    requests = -np.sort(-requests)  # the users still active are then a prefix
    user = number * CHUNK_USERS + rng.permutation(count)
    time_UK, inside_UK = _request_times(config, rng, requests)
    history, out = History(config, world, user), list[Events]()
    item_UF, time_UF = _follows(config, world, rng, time_UK[:, 0])
    past = make_past(config, world.clusters, (config.seed, number), item_UF.shape, time_UK.shape[1])
    item_UF, scene_UF = item_UF if past.item_UF is None else past.item_UF, past.scene_UF
    history.add(item_UF, np.full(item_UF.shape, FOLLOW), time_UF, scene_UF)
    out.append(_events(user, item_UF, time_UF, np.full(item_UF.shape, FOLLOW), scene_UF))
    for step in range(int(requests[0])):
        n = int(np.searchsorted(-requests, -step, side="left"))
        time, scene = time_UK[:n, step], past.scene_UK[:n, step]
        item = rng.integers(0, config.items, (n, 1))
        searched = (rng.random(n) < config.search_share) & ~inside_UK[:n, step]
        at = np.where(searched, time - SEARCH_LEAD, NEVER)[:, None]
        history.add(item, np.full((n, 1), SEARCH), at, scene[:, None])
        out.append(_events(user[:n], item, at, np.full((n, 1), SEARCH), scene[:, None]))
        history.reach(time)
        item_UC = _candidates(config, rng, n)
        p_UC = 1 / (1 + np.exp(-history.logit(item_UC, time, scene)))
        clicked, liked = rng.random((2, *p_UC.shape))
        action_UC = np.where(clicked < p_UC, np.where(liked < config.like_share, LIKE, CLICK), SKIP)
        time_UC = time[:, None] + config.dwell * np.arange(config.candidates)
        scene_UC = np.repeat(scene[:, None], config.candidates, axis=1)
        history.add(item_UC, action_UC, time_UC, scene_UC)
        request_UC = np.repeat(user[:n, None] * config.most_requests + step, config.candidates, axis=1)
        out.append(_events(user[:n], item_UC, time_UC, action_UC, scene_UC, request_UC, p_UC))
    return _in_order(out)


def _request_times(config: SyntheticConfig, rng: np.random.Generator, requests: Int64) -> tuple[Int64, np.ndarray]:
    """Request times [U, K] and which of them begin inside the request before. Gaps spread evenly over their logarithm,
    from one to 1,440 parts of a user's own active time, so that order says little about age."""
    users, steps = len(requests), int(requests[0])
    gap = np.exp(rng.uniform(0, np.log(1440), (users, steps)))
    gap *= np.arange(steps) < requests[:, None]
    begin = 0.3 * config.days * DAY * rng.random(users)
    end = config.days * DAY * (1 - 0.3 * rng.random(users) ** 2)
    free = np.maximum(end - begin - config.room * requests, 0)
    passed = np.cumsum(gap, axis=1) / gap.sum(axis=1, keepdims=True) * free[:, None]
    time = END - config.days * DAY + (begin[:, None] + passed).astype(np.int64) + config.room * np.arange(steps)
    inside = np.zeros((users, steps), bool)
    inside[:, 1::2] = rng.random((users, steps // 2)) < config.interleave
    overlapping = np.roll(time, 1, axis=1) + config.dwell // 2 + 1
    return np.where(inside, overlapping, time), inside


def _follows(config: SyntheticConfig, world: World, rng: np.random.Generator, before: Int64) -> tuple[Int64, Int64]:
    """Items and times [U, onboarding]: mostly of the few groups that the user cares for."""
    shape = (len(before), config.onboarding)
    share = np.cumsum(rng.dirichlet(np.full(config.groups, 0.3), len(before)), axis=1)
    group = np.minimum((rng.random(shape)[:, :, None] > share[:, None]).sum(axis=2), config.groups - 1)
    by_group = np.argsort(world.group, kind="stable")
    size = np.bincount(world.group, minlength=config.groups)
    start = np.cumsum(size) - size
    item = by_group[start[group] + (rng.random(shape) * size[group]).astype(np.int64)]
    time = before[:, None] - HOUR - MINUTE * np.arange(config.onboarding, 0, -1)
    return item, time


def _candidates(config: SyntheticConfig, rng: np.random.Generator, requests: int) -> Int64:
    """[n, C] distinct items in ascending order, the order in which the stored log breaks ties."""
    drawn = rng.random((requests, config.candidates)) ** (1 + config.exposure_skew)
    low = np.sort((drawn * (config.items - config.candidates + 1)).astype(np.int64), axis=1)
    return low + np.arange(config.candidates)


def _events(
    user: Int64,
    item: Int64,
    time: Int64,
    action: Int64,
    scene: Int64,
    request: Int64 | None = None,
    p: Float64 | None = None,
) -> Events:
    keep = time != NEVER
    request = np.full(item.shape, -1) if request is None else request
    p = np.full(item.shape, np.nan) if p is None else p
    user = np.broadcast_to(user[:, None], item.shape)
    return Events(user[keep], item[keep], time[keep], request[keep], action[keep], p[keep], scene[keep])


def _in_order(parts: list[Events]) -> Events:
    columns = {name: np.concatenate([getattr(e, name) for e in parts]) for name in Events.__dataclass_fields__}
    order = np.lexsort((columns["item"], columns["request"], columns["time"], columns["user"]))
    return Events(**{name: values[order] for name, values in columns.items()})
