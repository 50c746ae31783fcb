"""Exact, tie-aware AUC and group AUC. A tie counts one half, as in the Mann-Whitney statistic.

Wins are counted in integers (twice the number of correctly ordered pairs), so AUC does not depend on the order of the
rows; sums of floats over groups are correctly rounded (`math.fsum`), so GAUC does not either.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ctr_rec.errors import ConfigError
from ctr_rec.metrics.inputs import (
    Codes,
    Groups,
    Labels,
    MetricValue,
    Scores,
    as_groups,
    as_labels,
    as_scores,
    group_codes,
    same_length,
)

GroupWeight: TypeAlias = Literal["impressions", "none"]
FloatArray: TypeAlias = npt.NDArray[np.float64]

NO_ROWS = "no impressions"
ONE_CLASS = "only {} labels: both are needed"
NO_GROUP = "no group has both labels: no pair to order inside a group"


@dataclass(frozen=True)
class GaucResult:
    """Group AUC and what it was computed from.

    A group with one class has no AUC: it is left out of `value`, and its rows are counted in `rows_skipped`.
    `reason` says why `value` is NaN, or is None.
    """

    value: float
    groups_used: int
    groups_total: int
    rows_skipped: int
    reason: str | None = None


@dataclass(frozen=True)
class GroupAuc:
    """AUC inside each group code: arrays of length num_codes; `auc` is NaN where a class is missing."""

    num_rows: Codes
    num_positives: Codes
    auc: FloatArray

    @property
    def used(self) -> npt.NDArray[np.bool_]:
        """Groups that have both labels."""
        return (self.num_positives > 0) & (self.num_positives < self.num_rows)

    def mean(self, weight: GroupWeight = "impressions") -> GaucResult:
        """Mean over the groups that have both labels, by rows (`impressions`) or evenly (`none`)."""
        if weight not in ("impressions", "none"):
            raise ConfigError(f"group weight: expected 'impressions' or 'none', got {weight!r}; name one of the two")
        used = self.used
        total_rows, used_rows = int(self.num_rows.sum()), int(self.num_rows[used].sum())
        weights = self.num_rows[used] if weight == "impressions" else np.ones(int(used.sum()), np.int64)
        reason, value = None, math.nan
        if len(weights):
            value = math.fsum((self.auc[used] * weights).tolist()) / int(weights.sum())
        else:
            reason = NO_GROUP if total_rows else NO_ROWS
        groups_total = int(np.count_nonzero(self.num_rows))
        return GaucResult(value, len(weights), groups_total, total_rows - used_rows, reason)


def auc(label: npt.ArrayLike, score: npt.ArrayLike) -> MetricValue:
    """Area under the ROC curve, exact, ties counted one half.

    Args:
        label: [N] of 0 and 1.
        score: [N], logits or probabilities; only their order matters.

    Returns:
        The AUC; NaN with its `reason` when a class is missing.

    Raises:
        DataError: another label, a NaN score (its row is named), unequal lengths.
    """
    labels, scores = as_labels(label), as_scores(score)
    same_length(label=labels, score=scores)
    return checked_auc(labels, scores)


def checked_auc(label: Labels, score: Scores) -> MetricValue:
    """`auc` of columns that have passed the door."""
    num_positives = int(np.count_nonzero(label))
    num_negatives = len(label) - num_positives
    if not num_positives or not num_negatives:
        return MetricValue.undefined(one_class_reason(num_positives, num_negatives))
    positive, negative = np.sort(score[label == 1]), np.sort(score[label == 0])
    below = np.searchsorted(negative, positive, side="left")
    not_above = np.searchsorted(negative, positive, side="right")
    return MetricValue(int(below.sum() + not_above.sum()) / (2 * num_positives * num_negatives))


def one_class_reason(num_positives: int, num_negatives: int) -> str:
    """Why a metric that needs both labels is undefined."""
    if num_positives == num_negatives == 0:
        return NO_ROWS
    return ONE_CLASS.format("negative" if num_negatives else "positive")


def gauc(label: npt.ArrayLike, score: npt.ArrayLike, group: Groups, weight: GroupWeight = "impressions") -> GaucResult:
    """Mean over groups (users) of the AUC inside the group, exact and tie-aware.

    `weight="impressions"` is the GAUC of DIN (arXiv 1706.06978, section 6.3), `"none"` the plain mean over groups.

    Args:
        label: [N] of 0 and 1.
        score: [N], logits or probabilities.
        group: [N], integers or strings (NumPy, Arrow or a list).

    Raises:
        DataError: another label, a NaN score or a missing group (its row is named), unequal lengths.
    """
    labels, scores, groups = as_labels(label), as_scores(score), as_groups(group)
    same_length(label=labels, score=scores, group=groups)
    codes, num_codes = group_codes(groups)
    return group_auc(labels, scores, codes, num_codes).mean(weight)


def group_auc(label: Labels, score: Scores, codes: Codes, num_codes: int) -> GroupAuc:
    """AUC inside every group, from one sort of (group, score, label) packed in a 64-bit key.

    Args:
        label: [N] checked labels.
        score: [N] checked scores.
        codes: [N] group codes in [0, num_codes).
        num_codes: length of the returned arrays.
    """
    num_rows = np.zeros(num_codes, np.int64)
    num_positives = np.zeros(num_codes, np.int64)
    values = np.full(num_codes, np.nan)
    if len(label) == 0:
        return GroupAuc(num_rows, num_positives, values)
    rank, rank_bits = _score_ranks(score)
    assert num_codes.bit_length() + rank_bits + 1 <= 64, (num_codes, rank_bits)
    key = (codes.astype(np.uint64) << np.uint64(rank_bits) | rank) << np.uint64(1) | label.astype(np.uint64)
    key.sort()
    present, rows, positives, wins = _count_wins(key, rank_bits)
    num_rows[present], num_positives[present] = rows, positives
    pairs = 2 * positives * (rows - positives)
    used = pairs > 0
    values[present[used]] = wins[used] / pairs[used]
    return GroupAuc(num_rows, num_positives, values)


def _score_ranks(score: Scores) -> tuple[npt.NDArray[np.uint64], int]:
    """Unsigned integers in the order of the scores, equal where they are equal, and how many bits they need."""
    with np.errstate(over="ignore"):
        narrow = score.astype(np.float32, copy=False)
    # Logits of a float32 model keep their exact order in 32 bits even when a reader widened them: one sort less.
    if narrow is score or np.array_equal(narrow, score):
        # Adding zero turns -0.0 into 0.0, which compare equal but differ in bits.
        bits = (narrow + np.float32(0)).view(np.uint32)
        ordered = np.where(bits >> 31 == 1, ~bits, bits | np.uint32(1 << 31))
        return ordered.astype(np.uint64), 32
    order = np.argsort(score)
    ascending = score[order]
    rank = np.empty(len(score), np.uint64)
    rank[order] = np.concatenate(([0], np.cumsum(ascending[1:] != ascending[:-1]))).astype(np.uint64)
    return rank, len(score).bit_length()


def _count_wins(key: npt.NDArray[np.uint64], rank_bits: int) -> tuple[Codes, Codes, Codes, Codes]:
    """From sorted keys: the group codes present, and for each its rows, positives and twice its won pairs."""
    group = key >> np.uint64(rank_bits + 1)
    starts = _run_starts(group)
    positive = (key & np.uint64(1)).astype(np.int64)
    # Negatives before each row; inside a run of equal scores the negatives come first, as the label is the lowest bit.
    negatives = np.concatenate(([0], np.cumsum(1 - positive)))
    tie_starts = _run_starts(key >> np.uint64(1))
    tie_lengths = np.diff(tie_starts, append=len(key))
    # Negatives of earlier groups are counted in and taken off once per group.
    doubled = np.repeat(negatives[tie_starts], tie_lengths)
    doubled += negatives[1:]
    doubled *= positive
    rows, positives = np.diff(starts, append=len(key)), np.add.reduceat(positive, starts)
    wins = np.add.reduceat(doubled, starts) - 2 * negatives[starts] * positives
    return group[starts].astype(np.int64), rows, positives, wins


def _run_starts(values: npt.NDArray[np.uint64]) -> Codes:
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    return np.concatenate(([0], changes)).astype(np.int64)
