"""Effects of alike content in a synthetic log: clusters of items, and clicks that depend on which events are alike.

With `clusters` the items' content vectors are unit vectors around cluster centres. Two items of one cluster are *alike*
(cosine about 1 / (1 + content_noise^2)), items of different clusters of one family have about half of it, all others
about 0; clusters know nothing of groups. Let R be the newest `recent` events that an impression sees, F all visible
ones before them, i the candidate, x_i its taste vector and G the number of groups. The effects, each times its
strength, are

    lifelong_taste     min(n, enough) / enough - 1/2 with n the events of F alike i; 0 while F is empty
    content_interest   [log(1 + a) - log(1 + |R| p_a)] - [log(1 + b) - log(1 + |R| p_b)] with b events of R alike i, a
                       of another cluster of its family, and p_b, p_a the shares of such items: a near event draws,
                       one that is alike bores; a function of the histogram of cosines
    neighbour_context  sum over j of R of (x_i . x_j - 1/G) (n_j - (|R| - 1) p_j) / sqrt(recent) with n_j other events
                       of R alike j, p_j the share of such items: what a user came back to counts, what was met once
                       counts against
    token_interaction  sum over j of R of (x_i . x_j - 1/G) (scenes [scene of j is the request's] - 1) / sqrt(recent)

The far past differs from the recent one by `episode`: follows, which lie before everything else, then come in runs of
one cluster each, drawn anew for every run.

Legend: U users, n of them active, C candidates of a request, I items, K clusters, R window, D width of a vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from ctr_rec.config import Config
from ctr_rec.errors import ConfigError

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

# Streams of random numbers of their own: without clusters and scenes a log stays what it was, bit by bit.
_CLUSTERS, _SHUFFLE, _PAST = 11, 12, 13


class ContentEffects(Config):
    """Strengths in units of logit; 0 is off. See the module for their formulas."""

    lifelong_taste: float = 0.0
    content_interest: float = 0.0
    neighbour_context: float = 0.0
    token_interaction: float = 0.0


class ContentSettings(Config):
    """What alike content and scenes are.

    clusters: of content vectors; 0 leaves all items unlike, with vectors of no meaning but for effects.content.
    per_family: clusters with half the likeness. content_noise: length of an item's own part against its cluster's
    centre. content: "shuffled" stores the vector of another item with every item, a placebo with the same clicks.
    recent, enough: see the module. episode: follows of one cluster in a row; 0 draws follows by group. scenes: values
    of `scene`, a feature of the request and of every past event; 0 leaves it out.
    """

    clusters: int = Field(default=0, ge=0)
    per_family: int = Field(default=1, ge=1)
    content_noise: float = Field(default=0.2, ge=0, le=0.5)
    content: Literal["own", "shuffled"] = "own"
    recent: int = Field(default=50, ge=2)
    enough: int = Field(default=5, ge=1)
    episode: int = Field(default=0, ge=0)
    scenes: int = Field(default=0, ge=0)

    @property
    def families(self) -> int:
        return -(-self.clusters // self.per_family)


def check_content(settings: ContentSettings, effects: ContentEffects, items: int, content_dim: int) -> None:
    """Raises ConfigError where the settings contradict each other."""
    needed = settings.clusters + (settings.families if settings.per_family > 1 else 0)
    if needed > content_dim:
        raise ConfigError(
            f"synthetic log: {settings.clusters} clusters in families of {settings.per_family} have centres in "
            f"{needed} directions, got content_dim {content_dim}; raise content_dim to {needed} or lower clusters"
        )
    if settings.clusters > items:
        raise ConfigError(
            f"synthetic log: expected items >= clusters, got {items} items, {settings.clusters} clusters; raise items"
        )
    of_clusters = ("lifelong_taste", "content_interest", "neighbour_context")
    wanted = [f"effects.{name}" for name in of_clusters if getattr(effects, name)]
    wanted += ["episode"] * bool(settings.episode)
    if wanted and settings.clusters < 2:
        raise ConfigError(
            f"synthetic log: {wanted[0]} needs items that are alike, expected clusters >= 2, got {settings.clusters}; "
            "set clusters to 24 and content_dim to 32, say"
        )
    if effects.content_interest and not 2 <= settings.per_family < settings.clusters:
        raise ConfigError(
            "synthetic log: effects.content_interest tells alike items from near ones, expected per_family >= 2 and "
            f"less than clusters, got {settings.per_family} of {settings.clusters} clusters; set per_family to 3, say"
        )
    if effects.token_interaction and settings.scenes < 2:
        raise ConfigError(
            f"synthetic log: effects.token_interaction reads scenes, expected scenes >= 2, got {settings.scenes}; "
            "set scenes to 4, say"
        )


@dataclass(frozen=True)
class Clusters:
    """cluster, family: of each item, int64 [I]; all 0 in a log without clusters."""

    cluster: Int64
    family: Int64


def make_clusters(settings: ContentSettings, seed: int, items: int, content_dim: int) -> tuple[Clusters, Float64]:
    """Clusters of equal size, but for one item, and unit content vectors [I, D] with the values that the log stores.

    Centres of different families are orthogonal, those of one family have cosine 1/2.
    """
    rng = np.random.default_rng([seed, _CLUSTERS])
    count, families = settings.clusters, settings.families
    of_cluster = np.arange(count) // settings.per_family
    axes, _ = np.linalg.qr(rng.normal(size=(content_dim, content_dim)))
    centre = axes[:count]
    if settings.per_family > 1:
        centre = (centre + axes[count : count + families][of_cluster]) / np.sqrt(2)
    cluster = rng.permutation(np.arange(items) % count)
    own = rng.normal(size=(items, content_dim))
    own *= settings.content_noise / np.linalg.norm(own, axis=1, keepdims=True)
    content = centre[cluster] + own
    content /= np.linalg.norm(content, axis=1, keepdims=True)
    return Clusters(cluster, of_cluster[cluster]), content.astype(np.float32).astype(np.float64)


def stored_content(settings: ContentSettings, seed: int, content: Float64) -> Float64:
    """[I, D] as the log tells it: its own, or that of another item."""
    if settings.content == "own":
        return content
    return content[np.random.default_rng([seed, _SHUFFLE]).permutation(len(content))]


@dataclass(frozen=True)
class Past:
    """What some users meet beside the rest of the log. item: of their follows [U, F], None where follows go by group.
    scene_UF: of their follows. scene_UK: of their requests, and of the searches before them."""

    item_UF: Int64 | None
    scene_UF: Int64
    scene_UK: Int64


def make_past(
    settings: ContentSettings, clusters: Clusters, seed: tuple[int, int], follows: tuple[int, ...], steps: int
) -> Past:
    """seed: of the log, and number of the chunk. follows: users and follows of each. steps: requests at most."""
    rng = np.random.default_rng([seed[0], _PAST, seed[1]])
    users, count = follows
    scenes = max(settings.scenes, 1)
    scene_UF, scene_UK = rng.integers(0, scenes, follows), rng.integers(0, scenes, (users, steps))
    if not settings.episode:
        return Past(None, scene_UF, scene_UK)
    runs = rng.integers(0, settings.clusters, (users, -(-count // settings.episode)))
    of_follow = np.repeat(runs, settings.episode, axis=1)[:, :count]
    by_cluster = np.argsort(clusters.cluster, kind="stable")
    size = np.bincount(clusters.cluster, minlength=settings.clusters)
    start = np.cumsum(size) - size
    item = by_cluster[start[of_follow] + (rng.random(follows) * size[of_follow]).astype(np.int64)]
    return Past(item, scene_UF, scene_UK)


def content_history(
    settings: ContentSettings, effects: ContentEffects, clusters: Clusters, taste: Float64, users: int
) -> ContentHistory | None:
    """None where no effect reads it. Parameters: see ContentHistory."""
    if not any(getattr(effects, name) for name in ContentEffects.model_fields):
        return None
    return ContentHistory(settings, effects, clusters, taste, users)


class ContentHistory:
    """What the effects need of the visible history of U users: the window, and how many of each cluster in all."""

    def __init__(
        self,
        settings: ContentSettings,
        effects: ContentEffects,
        clusters: Clusters,
        taste: Float64,
        users: int,
    ) -> None:
        """taste: of each item [I, G]."""
        self._settings, self._effects, self._clusters, self._taste = settings, effects, clusters, taste
        self._item = np.full((users, settings.recent), -1, np.int64)  # a ring: event e of a user is at e mod recent
        self._scene = np.zeros((users, settings.recent), np.int64)
        self._seen = np.zeros(users, np.int64)
        self._of_cluster = np.zeros((users, max(settings.clusters, 1)), np.int64)
        cluster, family = clusters.cluster, clusters.family
        self._share_alike = np.bincount(cluster)[cluster] / len(cluster)
        self._share_near = np.bincount(family)[family] / len(family) - self._share_alike

    def absorb(self, rows: Int64, item: Int64, scene: Int64) -> None:
        """One event of each of these users, later than all before."""
        at = self._seen[rows] % self._settings.recent
        self._item[rows, at], self._scene[rows, at] = item, scene
        self._seen[rows] += 1
        self._of_cluster[rows, self._clusters.cluster[item]] += 1

    def logit(self, item_UC: Int64, scene_U: Int64) -> Float64:
        """[n, C] of candidates of the first n users. scene_U: of their requests."""
        effects, n = self._effects, len(item_UC)
        logit = np.zeros(item_UC.shape)
        if effects.lifelong_taste or effects.content_interest:
            alike, near = self._alike_and_near(item_UC)
            if effects.lifelong_taste:
                rows, enough = np.arange(n)[:, None], self._settings.enough
                far = self._of_cluster[rows, self._clusters.cluster[item_UC]] - alike
                taste = np.minimum(far, enough) / enough - 0.5
                logit += effects.lifelong_taste * np.where(self._seen[:n, None] > self._settings.recent, taste, 0.0)
            if effects.content_interest:
                length = np.minimum(self._seen[:n, None], self._settings.recent)
                drawn = np.log1p(near) - np.log1p(length * self._share_near[item_UC])
                bored = np.log1p(alike) - np.log1p(length * self._share_alike[item_UC])
                logit += effects.content_interest * (drawn - bored)
        if effects.neighbour_context:
            logit += effects.neighbour_context * self._matches(item_UC, self._neighbours(n))
        if effects.token_interaction:
            same = self._scene[:n] == scene_U[:, None]
            logit += effects.token_interaction * self._matches(item_UC, self._settings.scenes * same - 1.0)
        return logit

    def _alike_and_near(self, item_UC: Int64) -> tuple[Int64, Int64]:
        """How many of the window are alike the candidate, and how many of its family are not. [n, C] each."""
        item_UR = self._item[: len(item_UC)]
        there = (item_UR >= 0)[:, None]
        cluster, family = self._clusters.cluster, self._clusters.family
        alike = (cluster[item_UR][:, None] == cluster[item_UC][:, :, None]) & there
        akin = (family[item_UR][:, None] == family[item_UC][:, :, None]) & there
        count = alike.sum(axis=2)
        return count, akin.sum(axis=2) - count

    def _neighbours(self, n: int) -> Float64:
        """How many other events of the window are alike each of it, less how many would be by chance. [n, R]."""
        item_UR = self._item[:n]
        there_UR, cluster_UR = item_UR >= 0, self._clusters.cluster[item_UR]
        total_UK = np.zeros((n, self._settings.clusters))
        np.add.at(total_UK, (np.arange(n)[:, None], cluster_UR), there_UR)
        others_U = there_UR.sum(axis=1, keepdims=True) - 1
        return np.take_along_axis(total_UK, cluster_UR, axis=1) - 1 - others_U * self._share_alike[item_UR]

    def _matches(self, item_UC: Int64, weight_UR: Float64) -> Float64:
        """Weighted sum over the window of what taste has in common with the candidate, over sqrt(recent). [n, C]."""
        item_UR = self._item[: len(item_UC)]
        weight_UR = np.where(item_UR >= 0, weight_UR, 0.0) / np.sqrt(self._settings.recent)
        liking = np.einsum("ur,urg->ug", weight_UR, self._taste[item_UR])
        dot = np.einsum("ug,ucg->uc", liking, self._taste[item_UC])
        return dot - weight_UR.sum(axis=1, keepdims=True) / self._taste.shape[1]
