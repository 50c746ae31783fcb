"""Metrics of the last impressions, in fixed memory: what the training log line shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from ctr_rec.errors import CheckpointError, ConfigError
from ctr_rec.metrics.inputs import ScoreKind, as_labels, as_scores, same_length
from ctr_rec.metrics.mergeable import MetricDict, pointwise_metrics
from ctr_rec.metrics.ranking import checked_auc


class WindowMetrics:
    """A ring of the last `capacity` impressions; AUC over it is exact, not binned.

    `compute` returns `auc`, `logloss`, `ne`, `calibration`, `pcoc`, `base_rate`, `impressions` and `positives`.
    Memory is 5 bytes per impression of capacity, whatever is fed.
    """

    def __init__(self, capacity: int = 100_000, score_kind: ScoreKind = "logit") -> None:
        if capacity < 1:
            raise ConfigError(f"window: expected a capacity of at least 1 impression, got {capacity}; use 100000")
        self.capacity = capacity
        self.score_kind: ScoreKind = score_kind
        self._label = np.zeros(capacity, np.uint8)
        self._score = np.zeros(capacity, np.float32)
        self._seen = 0

    def __len__(self) -> int:
        return min(self._seen, self.capacity)

    def update(self, label: npt.ArrayLike, score: npt.ArrayLike) -> None:
        """Add impressions, oldest first: `label` [N] of 0 and 1, `score` [N], kept as float32.

        Raises:
            DataError: bad label or NaN score (row named), unequal lengths.
        """
        labels, scores = as_labels(label), as_scores(score, self.score_kind)
        num_rows = same_length(label=labels, score=scores)
        kept = min(num_rows, self.capacity)
        slots = np.arange(self._seen + num_rows - kept, self._seen + num_rows) % self.capacity
        self._label[slots] = labels[num_rows - kept :]
        with np.errstate(over="ignore"):
            self._score[slots] = scores[num_rows - kept :]
        self._seen += num_rows

    def compute(self) -> MetricDict:
        """Metrics of the window; NaN with a `reason` where undefined."""
        return _compute(self._label[: len(self)], self._score[: len(self)], self.score_kind)

    def to_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """`label` uint8 [n] and `score` float32 [n], oldest first: for a checkpoint or to gather over ranks."""
        oldest_first = np.arange(self._seen - len(self), self._seen) % self.capacity
        return {"label": self._label[oldest_first], "score": self._score[oldest_first]}

    def load_arrays(self, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Become the state that `to_arrays` described; a smaller window keeps its newest impressions.

        Raises:
            CheckpointError: an array is missing.
        """
        if not {"label", "score"} <= set(arrays):
            got = ", ".join(sorted(arrays)) or "nothing"
            raise CheckpointError(
                f"window state: expected arrays label and score, got {got}; start with an empty window"
            )
        self._seen = 0
        self.update(arrays["label"], arrays["score"])

    @staticmethod
    def compute_merged(
        states: Iterable[Mapping[str, npt.NDArray[np.generic]]], score_kind: ScoreKind = "logit"
    ) -> MetricDict:
        """Metrics over the windows of all ranks, from what each rank's `to_arrays` returned, in any order."""
        gathered = list(states)
        if not gathered:
            return _compute(np.empty(0, np.uint8), np.empty(0, np.float32), score_kind)
        label = as_labels(np.concatenate([state["label"] for state in gathered]))
        score = as_scores(np.concatenate([state["score"] for state in gathered]), score_kind)
        return _compute(label, score, score_kind)


def _compute(label: npt.NDArray[np.uint8], score: npt.NDArray[np.floating], score_kind: ScoreKind) -> MetricDict:
    return {"auc": checked_auc(label, score), **pointwise_metrics(label, score, score_kind)}
