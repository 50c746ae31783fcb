"""Metrics of predicted probabilities: logloss, normalised entropy, calibration and reliability bins.

Every function takes logits by default; `kind="probability"` says that the scores are probabilities. Sums are correctly
rounded (`math.fsum`), so no result depends on the order of the rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ctr_rec.errors import ConfigError
from ctr_rec.metrics.inputs import Labels, MetricValue, ScoreKind, Scores, as_labels, as_scores, same_length
from ctr_rec.metrics.ranking import NO_ROWS, FloatArray, one_class_reason

# A probability of exactly 0 or 1 is moved inside by this much, as scikit-learn does for float64.
_PROBABILITY_EDGE = float(np.finfo(np.float64).eps)

BinEdges: TypeAlias = Literal["count", "width"]


@dataclass(frozen=True)
class NeResult:
    """Normalised entropy, the base rate its denominator used, and why it is NaN if it is (else None)."""

    value: float
    base_rate: float
    reason: str | None = None


@dataclass(frozen=True)
class ReliabilityBin:
    """Predictions in [low, high] (the largest and smallest in the bin), their number, and the two means to compare."""

    low: float
    high: float
    count: int
    mean_prediction: float
    mean_label: float


def logloss(label: npt.ArrayLike, score: npt.ArrayLike, kind: ScoreKind = "logit") -> MetricValue:
    """Mean binary cross-entropy in nats.

    From logits it is computed without ever forming a probability, so a logit of -1000 loses nothing. Probabilities of
    exactly 0 or 1 are clipped to float64 epsilon. Without rows it is NaN with its `reason`.

    Raises:
        DataError: another label, a NaN score or a probability outside [0, 1] (the row is named), unequal lengths.
    """
    labels, scores = _checked(label, score, kind)
    if not len(labels):
        return MetricValue.undefined(NO_ROWS)
    return MetricValue(exact_sum(row_losses(labels, scores, kind)) / len(labels))


def ne(
    label: npt.ArrayLike, score: npt.ArrayLike, kind: ScoreKind = "logit", base_rate: float | None = None
) -> NeResult:
    """Normalised entropy: logloss over the entropy of a constant prediction (He et al., ADKDD 2014, section 3).

    1 is what predicting `base_rate` for everybody costs; below 1 is better. `base_rate` defaults to the mean label of
    these rows; give the training range's rate to compare periods. Twitter's RCE is 100 * (1 - NE).

    Raises:
        DataError: as `logloss`. ConfigError: `base_rate` outside (0, 1).
    """
    labels, scores = _checked(label, score, kind)
    if base_rate is not None and not 0 < base_rate < 1:
        raise ConfigError(
            f"base rate: expected a number inside (0, 1), got {base_rate}; leave it out to use the data's"
        )
    num_positives = int(np.count_nonzero(labels))
    if not len(labels):
        return NeResult(math.nan, math.nan, NO_ROWS)
    own_rate = num_positives / len(labels)
    rate = own_rate if base_rate is None else base_rate
    if not 0 < rate < 1:
        return NeResult(math.nan, rate, one_class_reason(num_positives, len(labels) - num_positives))
    loss = exact_sum(row_losses(labels, scores, kind)) / len(labels)
    # With a given base rate the constant predictor pays its cross-entropy on these labels.
    return NeResult(float(loss / cross_entropy(own_rate, rate)), rate)


def calibration(label: npt.ArrayLike, score: npt.ArrayLike, kind: ScoreKind = "logit") -> MetricValue:
    """Mean prediction over mean label; 1 is calibrated, above 1 predicts too many clicks. PCOC is its other name.

    Raises:
        DataError: as `logloss`.
    """
    labels, scores = _checked(label, score, kind)
    return calibration_from_sums(exact_sum(probabilities(scores, kind)), int(np.count_nonzero(labels)), len(labels))


def calibration_from_sums(predicted: float, num_positives: int, num_rows: int) -> MetricValue:
    """`calibration` from the sum of predictions; NaN with a reason without positives."""
    if not num_rows:
        return MetricValue.undefined(NO_ROWS)
    if not num_positives:
        return MetricValue.undefined("no positive label: nothing to divide the predictions by")
    return MetricValue(predicted / num_positives)


def reliability_bins(
    label: npt.ArrayLike,
    score: npt.ArrayLike,
    kind: ScoreKind = "logit",
    num_bins: int = 20,
    edges: BinEdges = "count",
) -> list[ReliabilityBin]:
    """Bins of predicted probability with mean prediction and mean label, ascending; empty bins are left out.

    `edges="count"` cuts at quantiles (equal sizes, equal predictions never parted), `"width"` cuts [0, 1] evenly.

    Raises:
        DataError: as `logloss`. ConfigError: `num_bins` below 1 or unknown `edges`.
    """
    if num_bins < 1:
        raise ConfigError(f"reliability bins: expected at least 1 bin, got {num_bins}; ask for 10 to 50")
    if edges not in ("count", "width"):
        raise ConfigError(f"reliability bins: expected edges 'count' or 'width', got {edges!r}; name one of the two")
    labels, scores = _checked(label, score, kind)
    if not len(labels):
        return []
    predicted = probabilities(scores, kind)
    order = np.argsort(predicted, kind="stable")
    predicted, labels = predicted[order], labels[order]
    if edges == "width":
        bins = np.minimum((predicted * num_bins).astype(np.int64), num_bins - 1)
    else:
        # A run of equal predictions goes whole to the bin of its first row.
        first = np.searchsorted(predicted, predicted, side="left")
        bins = first * num_bins // len(predicted)
    starts = np.concatenate(([0], np.flatnonzero(np.diff(bins)) + 1))
    ends = np.append(starts[1:], len(bins))
    return [
        ReliabilityBin(
            low=float(predicted[start]),
            high=float(predicted[end - 1]),
            count=int(end - start),
            mean_prediction=exact_sum(predicted[start:end]) / int(end - start),
            mean_label=int(np.count_nonzero(labels[start:end])) / int(end - start),
        )
        for start, end in zip(starts, ends, strict=True)
    ]


def row_losses(label: Labels, score: Scores, kind: ScoreKind) -> FloatArray:
    """Binary cross-entropy of each row in nats, [N] float64, from checked columns."""
    if kind == "probability":
        clipped = np.clip(score.astype(np.float64), _PROBABILITY_EDGE, 1 - _PROBABILITY_EDGE)
        return np.where(label == 1, -np.log(clipped), -np.log1p(-clipped))
    # softplus of the logit's wrong side: log(1 + exp(z)) with z = -x for a positive, x for a negative.
    wrong = np.where(label == 1, -1.0, 1.0) * score.astype(np.float64)
    return np.maximum(wrong, 0) + np.log1p(np.exp(-np.abs(wrong)))


def probabilities(score: Scores, kind: ScoreKind) -> FloatArray:
    """Predicted probability of each row, [N] float64, from checked scores; no overflow for any logit."""
    wide = score.astype(np.float64)
    if kind == "probability":
        return wide
    small = np.exp(-np.abs(wide))
    return np.where(wide >= 0, 1, small) / (1 + small)


def cross_entropy(observed: FloatArray | float, predicted: FloatArray | float) -> FloatArray:
    """Expected loss in nats of predicting the rate `predicted` where it is `observed`; NaN at a rate of 0 or 1."""
    rate = np.asarray(predicted, np.float64)
    inside = np.where((rate > 0) & (rate < 1), rate, np.nan)
    return -(observed * np.log(inside) + (1 - np.asarray(observed)) * np.log1p(-inside))


def exact_sum(values: npt.NDArray[np.float64]) -> float:
    """The correctly rounded sum: the same to the bit whatever the order of the values."""
    return math.fsum(values.tolist())


def _checked(label: npt.ArrayLike, score: npt.ArrayLike, kind: ScoreKind) -> tuple[Labels, Scores]:
    labels, scores = as_labels(label), as_scores(score, kind)
    same_length(label=labels, score=scores)
    return labels, scores
