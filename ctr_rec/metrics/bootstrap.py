"""Metrics under resampled users: the bootstrap behind every interval and paired comparison.

A user's impressions are correlated, so users are resampled, never rows (a cluster bootstrap). A replicate is a count
per user; each metric is computed from those counts without touching the rows again, except AUC, whose rows are sorted
once for all replicates.

Legend: U users, N rows, R replicates, P positive rows, M negative rows, K sums kept per user.
"""

from __future__ import annotations

import math
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
# Counts held at once: 16 MiB.
_CHUNK_ELEMENTS = 1 << 21


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
        self._sums_UK = np.stack([won, rows * used, losses, rows, per_user.num_positives.astype(np.float64)], axis=1)

    def _prepare_auc(self, label: Labels, score: Scores, codes: Codes) -> None:
        positive, negative = np.flatnonzero(label == 1), np.flatnonzero(label == 0)
        positive = positive[np.argsort(score[positive])]
        negative = negative[np.argsort(score[negative])]
        self._positive_user, self._negative_user = codes[positive], codes[negative]
        self._below_P = np.searchsorted(score[negative], score[positive], side="left")
        self._not_above_P = np.searchsorted(score[negative], score[positive], side="right")
        self._has_ties = bool((self._below_P != self._not_above_P).any())

    def compute(self, counts_RU: npt.NDArray[np.int64]) -> dict[str, FloatArray]:
        """Each metric of `RESAMPLED_KEYS` for every replicate, [R]; NaN where a replicate lacks a class."""
        won, weight, loss, rows, positives = (counts_RU.astype(np.float64) @ self._sums_UK).T
        with np.errstate(divide="ignore", invalid="ignore"):
            gauc = won / weight
            logloss = loss / rows
            rate = positives / rows
        auc = np.array([self._auc(counts_U) for counts_U in counts_RU])
        return {"auc": auc, "gauc": gauc, "logloss": logloss, "ne": logloss / cross_entropy(rate, rate)}

    def point(self) -> dict[str, float]:
        """The metrics of the data itself: every user once."""
        once = np.ones((1, self.num_users), np.int64)
        return {key: float(values[0]) for key, values in self.compute(once).items()}

    def _auc(self, counts_U: npt.NDArray[np.int64]) -> float:
        # One replicate at a time: its counts stay in cache under the random reads, five times faster than many at once.
        negatives_M = np.zeros(len(self._negative_user) + 1, np.int64)
        np.cumsum(counts_U[self._negative_user], out=negatives_M[1:])
        positives_P = counts_U[self._positive_user]
        pairs = int(positives_P.sum()) * int(negatives_M[-1])
        if not pairs:
            return math.nan
        wins = int(np.dot(positives_P, negatives_M[self._below_P]))
        tied = int(np.dot(positives_P, negatives_M[self._not_above_P])) if self._has_ties else wins
        return (wins + tied) / (2 * pairs)


def user_counts(num_users: int, replicates: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """How often each user is drawn, as chunks [R', U] with `replicates` rows in all.

    Users are drawn with replacement, as many as there are, from one stream, so the chunking changes nothing.
    """
    if replicates < 1:
        raise ConfigError(
            f"bootstrap: expected at least 1 replicate, got {replicates}; use 1000 or more for an interval"
        )
    generator = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_ELEMENTS // max(num_users, 1))
    for start in range(0, replicates, chunk):
        draws = (generator.integers(0, num_users, num_users) for _ in range(min(chunk, replicates - start)))
        yield np.stack([np.bincount(drawn, minlength=num_users) for drawn in draws])


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
    chunks = [metrics.compute(counts) for counts in user_counts(num_users, replicates, seed)]
    point = metrics.point()
    return {
        key: percentile_interval(point[key], np.concatenate([chunk[key] for chunk in chunks]), confidence)
        for key in RESAMPLED_KEYS
    }
