"""What moves the clicks of a synthetic log: effects that are planted one by one, and the settings of a whole log.

The logit of an impression is `bias` plus a sum of effects, each an explicit function of (visible history, candidate,
request time) and times its strength; 0 switches it off. Visible is what batch/visibility.py says: events whose
known_at (time + action_delay) lies strictly before the request. With x_i the candidate's taste vector (one-hot of its
group, blurred by `spread`), c_i its content vector and the newest event last, the effects are

    long_term    mean of x_i . x_j over the user's follows, which lie before everything else
    drift        x_i . (mean of x_j over clicks and likes, faded by `fade` with every newer one)
    time_gap     sum over shown items of x_i . x_j exp(-(time since j) / tau) / 2
    action_kind  the faded mean of drift, in which a like counts 1 and a plain click -1/2
    position     x_i . x_j of the n-th last event, whatever it was
    content      c_i . (faded mean of c_j over shown items)
    channel      x_i . (faded mean over searches - faded mean over shown items)
    time_of_day  cos of the angle between the hour of the request and the hour at which the candidate's group peaks
    popularity   a normal number per item
    profile      x_i . (axis of the group that the user favours)

and x_i . x_j stands for itself minus 1 / groups, its mean over items, so that an effect alone leaves the rate alone.
The group that a user favours is the log's one user feature, which logs without its effect lack. What users are shown
does not depend on it, so where no event says its action only the feature tells.
Four more depend on which events have alike content, or the same scene: see planted_content.py.

Legend: U users, n of them active, C candidates of a request, I items, G groups, D width of a vector.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from ctr_rec.batch.planted_content import (
    Clusters,
    ContentEffects,
    ContentSettings,
    check_content,
    content_history,
    make_clusters,
)
from ctr_rec.errors import ConfigError

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

ACTIONS = ("skip", "click", "like", "search", "follow")
SKIP, CLICK, LIKE, SEARCH, FOLLOW = range(5)
SHOWN = (SKIP, CLICK, LIKE)
END = 1_735_689_600  # 2025-01-01T00:00Z; every log ends here, so that one split in time fits all of them
DAY, HOUR, MINUTE = 86_400, 3_600, 60
_LONGEST = 10  # times requests_per_user: a user with more requests is cut
NEVER = np.iinfo(np.int64).max


class Effects(ContentEffects):
    """Strength of each planted effect, in units of logit; 0 is off. See the module, and planted_content.py for those
    that are inherited."""

    long_term: float = 0.0
    drift: float = 0.0
    time_gap: float = 0.0
    action_kind: float = 0.0
    position: float = 0.0
    content: float = 0.0
    channel: float = 0.0
    time_of_day: float = 0.0
    popularity: float = 0.0
    profile: float = 0.0


ALL_EFFECTS = Effects(
    long_term=3.0,
    drift=3.0,
    time_gap=1.5,
    action_kind=3.0,
    position=1.0,
    content=1.0,
    channel=2.0,
    time_of_day=0.5,
    popularity=0.5,
)


class SyntheticConfig(ContentSettings):
    """A whole log. Sizes first, then how users behave, then what moves their clicks.

    requests_per_user: median; requests_sigma: of their log-normal spread, 0 gives every user the same number.
    candidates: impressions per request. onboarding: follows of a user before the first request. search_share: of
    requests that follow a search. like_share: of clicks that are likes. exposure_skew: 0 shows all items alike, more
    shows some more often. spread: noise in an item's taste vector against its group's. dwell: seconds between the
    impressions of one request. interleave: share of every second request that begins while the one before goes on.
    action_delay: seconds until an event is known. fade: what is left of an event's weight after each newer one.
    tau_hours: of time_gap. nth: 1 is the last event. What is inherited makes content alike.
    """

    seed: int = Field(default=1, ge=0)
    users: int = Field(default=4_000, ge=1)
    items: int = Field(default=1_000, ge=2)
    groups: int = Field(default=6, ge=2)
    content_dim: int = Field(default=8, ge=1)
    days: int = Field(default=20, ge=6)
    requests_per_user: int = Field(default=30, ge=1)
    requests_sigma: float = Field(default=0.6, ge=0, le=2)
    candidates: int = Field(default=4, ge=1)
    onboarding: int = Field(default=8, ge=0)
    search_share: float = Field(default=0.5, ge=0, le=1)
    like_share: float = Field(default=0.5, ge=0, le=1)
    exposure_skew: float = Field(default=0.0, ge=0)
    spread: float = Field(default=0.2, ge=0)
    dwell: int = Field(default=0, ge=0)
    interleave: float = Field(default=0.0, ge=0, le=1)
    action_delay: int = Field(default=0, ge=0)
    bias: float = -1.0
    fade: float = Field(default=0.7, gt=0, lt=1)
    tau_hours: float = Field(default=6.0, gt=0)
    nth: int = Field(default=3, ge=1)
    effects: Effects = ALL_EFFECTS

    @model_validator(mode="after")
    def _possible(self) -> SyntheticConfig:
        if self.candidates > self.items or self.groups > self.items:
            raise ConfigError(
                f"synthetic log: expected items >= candidates and groups, got {self.items} items, {self.candidates} "
                f"candidates, {self.groups} groups; raise items"
            )
        if self.interleave and self.dwell < 2:
            raise ConfigError(
                f"synthetic log: interleave needs requests that last, expected dwell >= 2, got {self.dwell}; "
                "set dwell to 60, say"
            )
        if self.effects.long_term and not self.onboarding:
            raise ConfigError("synthetic log: effects.long_term reads follows, expected onboarding >= 1, got 0")
        if self.episode and not self.onboarding:
            raise ConfigError("synthetic log: episode arranges follows, expected onboarding >= 1, got 0")
        check_content(self, self.effects, self.items, self.content_dim)
        if self.most_requests * self.room > 0.4 * self.days * DAY:
            raise ConfigError(
                f"synthetic log: up to {self.most_requests} requests of {self.room} s do not fit into {self.days} "
                "days; raise days, or lower requests_per_user, candidates or dwell"
            )
        return self

    @property
    def most_requests(self) -> int:
        """Of one user."""
        return self.requests_per_user * (_LONGEST if self.requests_sigma else 1)

    @property
    def room(self) -> int:
        """Seconds a request keeps to itself."""
        return self.candidates * self.dwell + MINUTE


@dataclass(frozen=True)
class World:
    """Items and users as the seed makes them.

    taste: [I, G], content: [I, D], peak: hour per group [G], favourite: group of each user of the log.
    """

    group: Int64
    taste: Float64
    content: Float64
    popularity: Float64
    peak: Float64
    favourite: Int64
    clusters: Clusters


def make_world(config: SyntheticConfig) -> World:
    """Taste vectors have length 1; content vectors have it too where they come in clusters, and else those of different
    items have dot products of deviation 1."""
    rng = np.random.default_rng([config.seed, 0])
    group = rng.permutation(np.arange(config.items) % config.groups)
    noise = rng.normal(size=(config.items, config.groups)) * config.spread / np.sqrt(config.groups)
    taste = np.eye(config.groups)[group] + noise
    content = rng.normal(size=(config.items, config.content_dim))
    content *= config.content_dim**0.25 / np.linalg.norm(content, axis=1, keepdims=True)
    none = np.zeros(config.items, np.int64)
    clusters, content = Clusters(none, none), content.astype(np.float32).astype(np.float64)  # as the log stores it
    if config.clusters:
        clusters, content = make_clusters(config, config.seed, config.items, config.content_dim)
    return World(
        group=group,
        taste=taste / np.linalg.norm(taste, axis=1, keepdims=True),
        content=content,
        popularity=rng.normal(size=config.items),
        peak=rng.uniform(0, 24, config.groups),
        # Drawn apart: the effect came later, and logs without it stay what they were.
        favourite=np.random.default_rng([config.seed, 2]).integers(config.groups, size=config.users),
        clusters=clusters,
    )


@dataclass(frozen=True)
class Trace:
    """A faded sum of past events' vectors: state <- keep state + weight[action] x, at events whose weight is not 0.

    tau: seconds in which the state falls to 1/e by itself, None for never. offset: subtracted from every dot product.
    """

    strength: float
    vectors: Float64
    weight: Float64
    keep: float = 1.0
    tau: float | None = None
    offset: float = 0.0


def _weights(**by_action: float) -> Float64:
    return np.array([by_action.get(name, 0.0) for name in ACTIONS])


def planted_traces(config: SyntheticConfig, world: World) -> list[Trace]:
    """The effects that are sums over the history, without those switched off."""
    effects, fade, mean = config.effects, config.fade, 1 / config.groups
    new = 1 - fade
    shown = {"skip": new, "click": new, "like": new}
    half = {"skip": 0.5, "click": 0.5, "like": 0.5}
    follow = 1 / max(config.onboarding, 1)
    taste = world.taste
    found = [
        Trace(effects.long_term, taste, _weights(follow=follow), offset=mean),
        Trace(effects.drift, taste, _weights(click=new, like=new), fade, offset=mean),
        Trace(effects.time_gap, taste, _weights(**half), tau=config.tau_hours * HOUR, offset=mean),
        Trace(effects.action_kind, taste, _weights(click=-new / 2, like=new), fade, offset=mean),
        Trace(effects.content, world.content, _weights(**shown), fade),
        Trace(effects.channel, taste, _weights(search=new), fade, offset=mean),
        Trace(-effects.channel, taste, _weights(**shown), fade, offset=mean),
    ]
    return [trace for trace in found if trace.strength]


class _TraceState:
    """[U, D] of one trace, and its sum of weights, which the offset is taken from."""

    def __init__(self, trace: Trace, users: int) -> None:
        self.trace = trace
        self._sum = np.zeros((users, trace.vectors.shape[1]))
        self._weight = np.zeros(users)
        self._at = np.zeros(users, np.int64)

    def absorb(self, rows: Int64, item: Int64, action: Int64, time: Int64) -> None:
        """One event of each of these users, later than all before."""
        weight = self.trace.weight[action]
        if not weight.all():
            counted = weight != 0
            rows, item, time, weight = rows[counted], item[counted], time[counted], weight[counted]
        left = self._left(rows, time) * self.trace.keep
        self._sum[rows] = left[:, None] * self._sum[rows] + weight[:, None] * self.trace.vectors[item]
        self._weight[rows] = left * self._weight[rows] + weight
        self._at[rows] = time

    def effect(self, item_UC: Int64, time: Int64) -> Float64:
        """Logits [n, C] of candidates of the first n users."""
        rows = np.arange(len(item_UC))
        dot = np.einsum("ud,ucd->uc", self._sum[rows], self.trace.vectors[item_UC])
        centred = dot - self.trace.offset * self._weight[rows, None]
        return self.trace.strength * self._left(rows, time)[:, None] * centred

    def _left(self, rows: Int64, time: Int64) -> Float64:
        if self.trace.tau is None:
            return np.ones(len(rows))
        return np.exp(-(time - self._at[rows]) / self.trace.tau)


class History:
    """What the effects need of the visible history of U users, and the events that are not visible yet."""

    def __init__(self, config: SyntheticConfig, world: World, user_U: Int64) -> None:
        users = len(user_U)
        self._config, self._world = config, world
        self._favourite = world.favourite[user_U]
        self._traces = [_TraceState(trace, users) for trace in planted_traces(config, world)]
        self._alike = content_history(config, config.effects, world.clusters, world.taste, users)
        self._last = np.full((users, config.nth), -1, np.int64)  # newest first
        self._known = np.zeros((users, 0), np.int64)
        self._item = np.zeros((users, 0), np.int64)
        self._action = np.zeros((users, 0), np.int64)
        self._scene = np.zeros((users, 0), np.int64)

    def add(self, item: Int64, action: Int64, time: Int64, scene: Int64) -> None:
        """Events [n, k] of the first n users; a time of NEVER stands for none. Users beyond n are gone for good."""
        n = len(item)
        known = np.where(time == NEVER, NEVER, time + self._config.action_delay)
        self._known = np.concatenate([self._known[:n], known], axis=1)
        self._item = np.concatenate([self._item[:n], item], axis=1)
        self._action = np.concatenate([self._action[:n], action], axis=1)
        self._scene = np.concatenate([self._scene[:n], scene], axis=1)

    def reach(self, request_time: Int64) -> None:
        """Makes visible what is known before the requests of the first n users, in the order of the stored log."""
        n = len(request_time)
        order = np.argsort(self._known[:n], axis=1, kind="stable")
        columns = (self._known, self._item, self._action, self._scene)
        known, item, action, scene = (np.take_along_axis(a[:n], order, 1) for a in columns)
        visible = known < request_time[:, None]
        for column in range(int(visible.sum(axis=1).max(initial=0))):
            rows = np.flatnonzero(visible[:, column])
            self._absorb(rows, *(a[rows, column] for a in (item, action, known, scene)))
        known[visible] = NEVER
        waiting = (known != NEVER).any(axis=0)
        self._known, self._item, self._action, self._scene = (a[:, waiting] for a in (known, item, action, scene))

    def _absorb(self, rows: Int64, item: Int64, action: Int64, known: Int64, scene: Int64) -> None:
        for state in self._traces:
            state.absorb(rows, item, action, known - self._config.action_delay)
        if self._config.effects.position:
            self._last[rows, 1:] = self._last[rows, :-1]
            self._last[rows, 0] = item
        if self._alike is not None:
            self._alike.absorb(rows, item, scene)

    def logit(self, item_UC: Int64, request_time: Int64, scene: Int64) -> Float64:
        """[n, C] for the requests of the first n users."""
        config, world, effects = self._config, self._world, self._config.effects
        logit = np.full(item_UC.shape, config.bias)
        for state in self._traces:
            logit += state.effect(item_UC, request_time)
        if effects.profile:
            match = world.taste[item_UC, self._favourite[: len(item_UC), None]] - 1 / config.groups
            logit += effects.profile * match
        if effects.position:
            nth = self._last[: len(item_UC), -1]
            match = np.einsum("ud,ucd->uc", world.taste[nth], world.taste[item_UC]) - 1 / config.groups
            logit += effects.position * np.where(nth[:, None] >= 0, match, 0.0)
        if effects.time_of_day:
            hour = request_time[:, None] % DAY / HOUR
            logit += effects.time_of_day * np.cos((hour - world.peak[world.group[item_UC]]) * (2 * np.pi / 24))
        if effects.popularity:
            logit += effects.popularity * world.popularity[item_UC]
        if self._alike is not None:
            logit += self._alike.logit(item_UC, scene)
        return logit
