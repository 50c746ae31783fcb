"""GAUC: time on one core at the size of the Amazon test set, and the difference from a naive per-user loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ctr_rec.bench.record import Emit, Timing, measure, one_core
from ctr_rec.metrics.ranking import GroupWeight, gauc

NUM_GROUPS, ROWS_PER_GROUP = 192_403, 2
SMALL_GROUPS = 2_000
SECONDS_GOAL = "<= 0.3"
DIFFERENCE_GOAL = "<= 1e-12"


@dataclass(frozen=True)
class Rows:
    """Synthetic predictions: labels, scores and integer user ids, all [N]."""

    label: npt.NDArray[np.int64]
    score: npt.NDArray[np.float32]
    group: npt.NDArray[np.int64]


def run(emit: Emit, log: Path | None = None) -> None:
    """Emit every case. `log` is not used: the sizes are those of a published test set, the values synthetic."""
    del log
    with one_core():
        _full_size(emit)
        _against_loop(emit)


def paired_rows(num_groups: int, rows_per_group: int, seed: int) -> Rows:
    """Groups of equal size in random row order."""
    generator = np.random.default_rng(seed)
    group = generator.permutation(np.repeat(np.arange(num_groups), rows_per_group))
    return Rows(generator.integers(0, 2, len(group)), generator.normal(size=len(group)).astype(np.float32), group)


def skewed_rows(num_groups: int, seed: int) -> Rows:
    """Groups of 1 to about 300 rows with many tied scores: what a naive loop may be compared on."""
    generator = np.random.default_rng(seed)
    sizes = np.minimum(generator.zipf(1.6, num_groups), 300)
    group = generator.permutation(np.repeat(np.arange(num_groups), sizes))
    score = np.round(generator.normal(size=len(group)), 1).astype(np.float32)
    return Rows(generator.integers(0, 2, len(group)), score, group)


def sklearn_loop(rows: Rows, weight: GroupWeight) -> float:
    """GAUC by one `roc_auc_score` call per user: the definition, and what several systems ship."""
    from sklearn.metrics import roc_auc_score

    values, weights = [], []
    for user in np.unique(rows.group):
        mine = rows.group == user
        label = rows.label[mine]
        if label.min() != label.max():
            values.append(float(roc_auc_score(label, rows.score[mine])))
            weights.append(len(label) if weight == "impressions" else 1)
    return math.fsum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)


def _full_size(emit: Emit) -> None:
    rows = paired_rows(NUM_GROUPS, ROWS_PER_GROUP, seed=0)
    hashed = rows.group * np.int64(7_919_000_023)
    text = pa.array([f"A{user:013d}" for user in rows.group])
    strings = text.to_numpy(zero_copy_only=False)
    exact = rows.score.astype(np.float64) + np.float64(2.0**-40) * np.arange(len(rows.score))
    cases: dict[str, Callable[[], object]] = {
        "int64 ids": lambda: gauc(rows.label, rows.score, rows.group),
        "int64 ids, float64 scores": lambda: gauc(rows.label, exact, rows.group),
        "hashed int64 ids": lambda: gauc(rows.label, rows.score, hashed),
        "Arrow string ids": lambda: gauc(rows.label, rows.score, text),
        "Python string ids": lambda: gauc(rows.label, rows.score, strings),
    }
    size = f"{len(rows.label):,} rows, {NUM_GROUPS:,} groups"
    for case, timing in measure(cases).items():
        _emit_seconds(emit, f"{size}, {case}", timing, goal=SECONDS_GOAL)


def _against_loop(emit: Emit) -> None:
    rows = skewed_rows(SMALL_GROUPS, seed=1)
    size = f"{len(rows.label):,} rows, {SMALL_GROUPS:,} groups, ties"
    for weight in ("impressions", "none"):
        difference = abs(gauc(rows.label, rows.score, rows.group, weight).value - sklearn_loop(rows, weight))
        case = f"{size}, weight {weight}"
        emit("gauc", case, "difference from scikit-learn loop", difference, "AUC", goal=DIFFERENCE_GOAL)
    timings = measure(
        {
            "ours": lambda: gauc(rows.label, rows.score, rows.group),
            "loop": lambda: sklearn_loop(rows, "impressions"),
        },
        runs=3,
    )
    _emit_seconds(emit, size, timings["ours"], baseline=timings["loop"])


def _emit_seconds(
    emit: Emit, case: str, timing: Timing, goal: str | None = None, baseline: Timing | None = None
) -> None:
    emit(
        "gauc",
        case,
        "seconds",
        timing.median,
        "s",
        baseline=None if baseline is None else baseline.median,
        ratio=None if baseline is None else baseline.median / timing.median,
        goal=goal,
        min=timing.min,
        max=timing.max,
        runs=timing.runs,
    )
