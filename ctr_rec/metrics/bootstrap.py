"""Metrics under resampled users: the bootstrap behind every interval and paired comparison.

A user's impressions are correlated, so users are resampled, never rows (a cluster bootstrap). A replicate is a count
per user; each metric is computed from those counts without touching the rows again, except AUC, whose rows are sorted
once for all replicates.

Legend: U users, N rows, R replicates, P positive rows, M negative rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ctr_rec.errors import ConfigError
from ctr_rec.metrics.inputs import (
    Codes,
    Groups,
    Labels,
    ScoreKind,
    Scores,
    as_groups,
    as_labels,
    as_scores,
    group_codes,
    same_length,
)
from ctr_rec.metrics.probability import cross_entropy, row_losses
from ctr_rec.metrics.ranking import FloatArray, group_auc

RESAMPLED_KEYS = ("auc", "gauc", "logloss", "ne")
# Elements of one chunk of row-by-replicate integers: small enough to stay near the cache.
_CHUNK_ELEMENTS = 1 << 21
_LARGEST_CHUNK = 64


@dataclass(frozen=True)
class Interval:
    """An estimate and the percentile interval of its replicates."""

    value: float
    low: float
    high: float


class ResampledMetrics:
    """AUC, GAUC, logloss and NE of one score column under any count of each user.

    Args:
        label: [N] checked labels.
        score: [N] checked scores.
        codes: [N] user codes in [0, num_users), every code used.
        num_users: U.
        kind: what `score` is.
    """

    def __init__(self, label: Labels, score: Scores, codes: Codes, num_users: int, kind: ScoreKind = "logit") -> None:
        self.num_users = num_users
        self._prepare_auc(label, score, codes)
        per_user = group_auc(label, score, codes, num_users)
        rows, used = per_user.num_rows.astype(np.float64), per_user.used
        won = np.where(used, np.nan_to_num(per_user.auc) * rows, 0.0)
        losses = np.bincount(codes, weights=row_losses(label, score, kind), minlength=num_users)
        # Per user, in this order: weighted AUC, its weight, loss, rows, positives.
        self._sums_KU = np.stack([won, rows * used, losses, rows, per_user.num_positives.astype(np.float64)])

    def _prepare_auc(self, label: Labels, score: Scores, codes: Codes) -> None:
        positive, negative = np.flatnonzero(label == 1), np.flatnonzero(label == 0)
        positive = positive[np.argsort(score[positive])]
        negative = negative[np.argsort(score[negative])]
        self._positive_user, self._negative_user = codes[positive], codes[negative]
        self._below_P = np.searchsorted(score[negative], score[positive], side="left")
        self._not_above_P = np.searchsorted(score[negative], score[positive], side="right")
        self._has_ties = bool((self._below_P != self._not_above_P).any())

    def compute(self, counts_UR: npt.NDArray[np.int64]) -> dict[str, FloatArray]:
        """Each metric of `RESAMPLED_KEYS` for every replicate, [R]; NaN where a replicate lacks a class."""
        won, weight, loss, rows, positives = self._sums_KU @ counts_UR.astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            gauc = won / weight
            logloss = loss / rows
            rate = positives / rows
        return {
            "auc": self._auc(counts_UR),
            "gauc": gauc,
            "logloss": logloss,
            "ne": logloss / cross_entropy(rate, rate),
        }

    def point(self) -> dict[str, float]:
        """The metrics of the data itself: every user once."""
        once = np.ones((self.num_users, 1), np.int64)
        return {key: float(values[0]) for key, values in self.compute(once).items()}

    def _auc(self, counts_UR: npt.NDArray[np.int64]) -> FloatArray:
        negatives_MR = np.zeros((len(self._negative_user) + 1, counts_UR.shape[1]), np.int64)
        np.cumsum(counts_UR[self._negative_user], axis=0, out=negatives_MR[1:])
        positives_PR = counts_UR[self._positive_user]
        wins = np.einsum("pr,pr->r", positives_PR, negatives_MR[self._below_P])
        tied = np.einsum("pr,pr->r", positives_PR, negatives_MR[self._not_above_P]) if self._has_ties else wins
        pairs = positives_PR.sum(axis=0) * negatives_MR[-1]
        return np.where(pairs > 0, (wins + tied) / (2.0 * np.maximum(pairs, 1)), np.nan)


def user_counts(num_users: int, num_rows: int, replicates: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """How often each user is drawn, as chunks [U, R'] with `replicates` columns in all.

    Users are drawn with replacement, as many as there are. Column r depends on (seed, r) through one stream only, so
    the chunking, which follows `num_rows` for memory, changes nothing.
    """
    if replicates < 1:
        raise ConfigError(
            f"bootstrap: expected at least 1 replicate, got {replicates}; use 1000 or more for an interval"
        )
    generator = np.random.default_rng(seed)
    chunk = int(np.clip(_CHUNK_ELEMENTS // max(num_rows, num_users, 1), 1, _LARGEST_CHUNK))
    for start in range(0, replicates, chunk):
        counts_RU = [
            np.bincount(generator.integers(0, num_users, num_users), minlength=num_users)
            for _ in range(min(chunk, replicates - start))
        ]
        yield np.stack(counts_RU, axis=1)


def used_codes(groups: Groups) -> tuple[Codes, int]:
    """Codes [N] of the groups in [0, U) with every code used, and U."""
    codes, num_codes = group_codes(as_groups(groups))
    present = np.zeros(num_codes, np.bool_)
    present[codes] = True
    return (np.cumsum(present) - 1)[codes], int(present.sum())


def percentile_interval(value: float, replicates: FloatArray, confidence: float = 0.95) -> Interval:
    """The central share `confidence` of the replicates that are defined; NaN bounds when none is.

    Raises:
        ConfigError: `confidence` outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence: expected a number inside (0, 1), got {confidence}; 0.95 is usual")
    defined = replicates[~np.isnan(replicates)]
    if not len(defined):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, float(low), float(high))


def metric_intervals(
    label: npt.ArrayLike,
    score: npt.ArrayLike,
    group: Groups,
    kind: ScoreKind = "logit",
    replicates: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """`auc`, `gauc`, `logloss` and `ne` of one model with user-clustered intervals, for a report.

    Raises:
        DataError: bad label, NaN score, missing group (row named), unequal lengths.
        ConfigError: `replicates` below 1 or `confidence` outside (0, 1).
    """
    labels, scores = as_labels(label), as_scores(score, kind)
    codes, num_users = used_codes(group)
    if same_length(label=labels, score=scores, group=codes) == 0:
        nothing = Interval(float("nan"), float("nan"), float("nan"))
        return dict.fromkeys(RESAMPLED_KEYS, nothing)
    metrics = ResampledMetrics(labels, scores, codes, num_users, kind)
    chunks = [metrics.compute(counts) for counts in user_counts(num_users, len(labels), replicates, seed)]
    point = metrics.point()
    return {
        key: percentile_interval(point[key], np.concatenate([chunk[key] for chunk in chunks]), confidence)
        for key in RESAMPLED_KEYS
    }
