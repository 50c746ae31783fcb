"""All metrics of a set of impressions, kept exactly and merged across ranks.

`ExactMetrics` keeps every row (about 17 bytes with integer groups), because AUC and GAUC are not sums of per-rank
values. Merging states in any order gives results that are equal to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ctr_rec.errors import ConfigError, DataError
from ctr_rec.metrics.inputs import (
    Groups,
    Labels,
    MetricValue,
    ScoreKind,
    Scores,
    as_groups,
    as_labels,
    as_scores,
    group_codes,
    same_length,
)
from ctr_rec.metrics.probability import calibration_from_sums, cross_entropy, exact_sum, probabilities, row_losses
from ctr_rec.metrics.ranking import NO_ROWS, checked_auc, group_auc, one_class_reason

METRIC_KEYS = (
    "auc",
    "gauc",
    "gauc_unweighted",
    "logloss",
    "ne",
    "calibration",
    "pcoc",
    "base_rate",
    "groups_used",
    "groups_total",
    "rows_skipped",
    "impressions",
    "positives",
)
COUNT_KEYS = frozenset({"groups_used", "groups_total", "rows_skipped", "impressions", "positives"})

MetricDict = dict[str, float]


class ExactMetrics:
    """State of all metrics: `update` with batches, `merge` other states, `compute` the dict.

    Args:
        score_kind: what `score` is. Prefer logits: a float32 sigmoid ties distinct scores near 0 and 1.
    """

    def __init__(self, score_kind: ScoreKind = "logit") -> None:
        if score_kind not in ("logit", "probability"):
            raise ConfigError(f"score kind: expected 'logit' or 'probability', got {score_kind!r}; name one of the two")
        self.score_kind: ScoreKind = score_kind
        self._labels: list[Labels] = []
        self._scores: list[Scores] = []
        self._groups: list[pa.Array] = []

    def __len__(self) -> int:
        return sum(len(label) for label in self._labels)

    def update(self, label: npt.ArrayLike, score: npt.ArrayLike, group: Groups) -> None:
        """Add impressions: `label` [N] of 0 and 1, `score` [N], `group` [N] integer or string user ids.

        Raises:
            DataError: bad label, NaN score, missing group (row named), unequal lengths, or another type of id than
                the state already holds.
        """
        # The caller may write its next batch into the same memory, so whatever is not immutable is copied.
        owned = group if isinstance(group, (pa.Array, pa.ChunkedArray)) else np.array(group)
        labels, scores, groups = (
            as_labels(np.array(label)),
            as_scores(np.array(score), self.score_kind),
            as_groups(owned),
        )
        if same_length(label=labels, score=scores, group=groups) == 0:
            return
        if self._groups and self._groups[0].type != groups.type:
            kinds = f"{self._groups[0].type} ids, got {groups.type}"
            raise DataError(f"group: expected {kinds}; give all batches and ranks user ids of one type")
        self._labels.append(labels)
        self._scores.append(scores)
        self._groups.append(groups)

    def merge(self, other: ExactMetrics) -> None:
        """Add the rows of another state, which is left as it is.

        Raises:
            DataError: scores or group ids of another kind.
        """
        if other.score_kind != self.score_kind:
            raise DataError(
                f"score kind: expected {self.score_kind!r}, got {other.score_kind!r}; merge states of one kind"
            )
        if self._groups and other._groups and self._groups[0].type != other._groups[0].type:
            kinds = f"{self._groups[0].type} ids, got {other._groups[0].type}"
            raise DataError(f"group: expected {kinds}; give all batches and ranks user ids of one type")
        self._labels += other._labels
        self._scores += other._scores
        self._groups += other._groups

    def compute(self) -> MetricDict:
        """Every key of `METRIC_KEYS`; an undefined metric is NaN and carries its `reason` (`MetricValue`)."""
        if not self._labels:
            return checked_metrics(np.empty(0, np.uint8), np.empty(0), pa.array([], pa.int64()), self.score_kind)
        label, score, group = self._columns()
        return checked_metrics(label, score, group, self.score_kind)

    def to_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """The state as plain numeric arrays that any backend can gather; `from_arrays` reads them.

        `label` uint8 [N], `score` float32 or float64 [N], and either `group` int64 [N] or, for string ids,
        `group_lengths` int64 [N] in bytes and `group_bytes` uint8. Arrays of several ranks may be concatenated by name.
        """
        if not self._labels:
            return {"label": np.empty(0, np.uint8), "score": np.empty(0, np.float32), "group": np.empty(0, np.int64)}
        label, score, group = self._columns()
        arrays: dict[str, npt.NDArray[np.generic]] = {"label": label, "score": score}
        if pa.types.is_int64(group.type):
            return arrays | {"group": group.to_numpy(zero_copy_only=True)}
        _, offset_buffer, byte_buffer = group.buffers()
        offsets = np.frombuffer(offset_buffer, np.int64)[group.offset : group.offset + len(group) + 1]
        text = np.frombuffer(byte_buffer, np.uint8) if byte_buffer is not None else np.empty(0, np.uint8)
        return arrays | {"group_bytes": text[offsets[0] : offsets[-1]], "group_lengths": np.diff(offsets)}

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, npt.NDArray[np.generic]], score_kind: ScoreKind = "logit"
    ) -> ExactMetrics:
        """The state that `to_arrays` described, checked as any other input."""
        state = cls(score_kind)
        if "group" in arrays:
            groups = pa.array(arrays["group"].astype(np.int64, copy=False))
        else:
            offsets = np.concatenate(([0], np.cumsum(arrays["group_lengths"].astype(np.int64))))
            text = np.ascontiguousarray(arrays["group_bytes"], np.uint8)
            groups = pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(text))
        state.update(arrays["label"], arrays["score"], groups)
        return state

    @classmethod
    def merged(cls, states: Iterable[ExactMetrics], score_kind: ScoreKind = "logit") -> ExactMetrics:
        """One state with the rows of all."""
        total = cls(score_kind)
        for state in states:
            total.merge(state)
        return total

    def _columns(self) -> tuple[Labels, Scores, pa.Array]:
        return np.concatenate(self._labels), np.concatenate(self._scores), pa.concat_arrays(self._groups)


def all_metrics(
    label: npt.ArrayLike, score: npt.ArrayLike, group: Groups, score_kind: ScoreKind = "logit"
) -> MetricDict:
    """Every metric of one set of impressions: `ExactMetrics` without a state.

    Raises:
        DataError: bad label, NaN score, missing group (row named), unequal lengths.
    """
    labels, scores, groups = as_labels(label), as_scores(score, score_kind), as_groups(group)
    same_length(label=labels, score=scores, group=groups)
    return checked_metrics(labels, scores, groups, score_kind)


def checked_metrics(label: Labels, score: Scores, group: pa.Array, score_kind: ScoreKind) -> MetricDict:
    """`all_metrics` of columns that have passed the door."""
    codes, num_codes = group_codes(group)
    per_group = group_auc(label, score, codes, num_codes)
    weighted, unweighted = per_group.mean("impressions"), per_group.mean("none")
    return {
        "auc": checked_auc(label, score),
        "gauc": MetricValue(weighted.value, weighted.reason),
        "gauc_unweighted": MetricValue(unweighted.value, unweighted.reason),
        **pointwise_metrics(label, score, score_kind),
        "groups_used": weighted.groups_used,
        "groups_total": weighted.groups_total,
        "rows_skipped": weighted.rows_skipped,
    }


def pointwise_metrics(label: Labels, score: Scores, score_kind: ScoreKind) -> MetricDict:
    """Metrics that are ratios of sums over rows, with their counts, of columns that have passed the door."""
    num_rows, num_positives = len(label), int(np.count_nonzero(label))
    rate = num_positives / num_rows if num_rows else math.nan
    loss = MetricValue.undefined(NO_ROWS)
    if num_rows:
        loss = MetricValue(exact_sum(row_losses(label, score, score_kind)) / num_rows)
    if 0 < rate < 1:
        normalised = MetricValue(float(loss / cross_entropy(rate, rate)))
    else:
        normalised = MetricValue.undefined(one_class_reason(num_positives, num_rows - num_positives))
    calibrated = calibration_from_sums(exact_sum(probabilities(score, score_kind)), num_positives, num_rows)
    return {
        "logloss": loss,
        "ne": normalised,
        "calibration": calibrated,
        "pcoc": calibrated,
        "base_rate": rate,
        "impressions": num_rows,
        "positives": num_positives,
    }


def undefined_reasons(metrics: Mapping[str, float]) -> dict[str, str]:
    """Why metrics of a computed dict are NaN, by key."""
    return {key: value.reason for key, value in metrics.items() if isinstance(value, MetricValue) and value.reason}
