"""Metrics: exact AUC and GAUC, logloss, NE, calibration, windows, and their uncertainty. NumPy only, no torch."""

from ctr_rec.metrics.bootstrap import RESAMPLED_KEYS, Interval, metric_intervals
from ctr_rec.metrics.inputs import MetricValue, ScoreKind
from ctr_rec.metrics.mergeable import COUNT_KEYS, METRIC_KEYS, ExactMetrics, all_metrics, undefined_reasons
from ctr_rec.metrics.probability import NeResult, ReliabilityBin, calibration, logloss, ne, reliability_bins
from ctr_rec.metrics.ranking import GaucResult, auc, gauc
from ctr_rec.metrics.window import WindowMetrics

__all__ = [
    "COUNT_KEYS",
    "METRIC_KEYS",
    "RESAMPLED_KEYS",
    "ExactMetrics",
    "GaucResult",
    "Interval",
    "MetricValue",
    "NeResult",
    "ReliabilityBin",
    "ScoreKind",
    "WindowMetrics",
    "all_metrics",
    "auc",
    "calibration",
    "gauc",
    "logloss",
    "metric_intervals",
    "ne",
    "reliability_bins",
    "undefined_reasons",
]
