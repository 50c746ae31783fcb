"""Gains of a family over the baseline, how sure they are, and the power law through them.

dGAUC of a size is 100 * (GAUC / baseline's GAUC - 1), both means over seeds: the relative gain in per cent, as EST
prints it against an MLP (arXiv 2602.10811). Without a baseline it is the gain over chance, a GAUC of one half.

Two things blur a gain. Seeds: another start gives another GAUC; each size's seeds are drawn anew, spread out by
sqrt(n / (n - 1)) because n draws from n vary less than the seeds do. Users: another sample of users gives another
GAUC; users are drawn once for all runs, which keeps the differences as steady as a paired comparison. Intervals are
given for each alone and for both together, where a mean moves by what users and what seeds move it; what is said of
alpha rests on both together.

Legend: S sizes, N seeds, R draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ctr_rec.evaluate.compare import align
from ctr_rec.evaluate.predictions import Predictions
from ctr_rec.metrics.bootstrap import Interval, ResampledMetrics, percentile_interval, used_codes, user_counts
from ctr_rec.metrics.inputs import as_labels, as_scores
from ctr_rec.scale.power_law import STEEPEST, FloatArray, PowerLaw, alphas, fit

CHANCE = 0.5
CONFIDENCE = 0.95
LEAST_SIZES = 3
Verdict = Literal["grows", "shrinks", "flat", "no fit"]


@dataclass(frozen=True)
class Point:
    """One size: dense parameters, FLOPs of a request of 60 candidates, and validation metrics of each seed."""

    name: str
    dense: int
    flops: float
    auc: tuple[float, ...]
    gauc: tuple[float, ...]


@dataclass(frozen=True)
class Draws:
    """GAUC under draws, of every run or of means over seeds (N = 1). points: [S][R, N]; baseline: [R, N], or chance."""

    points: tuple[FloatArray, ...]
    baseline: FloatArray


@dataclass(frozen=True)
class Axis:
    """What a gain is set against, in the unit that the paper's curves are in."""

    letter: str
    words: str


PARAMETERS = Axis("P", "millions of dense parameters")
FLOPS = Axis("C", "GFLOPs per 60 candidates")
AXES = (PARAMETERS, FLOPS)


@dataclass(frozen=True)
class Fit:
    """A family against one axis. x, gain: [S]. law: None where `verdict` is "no fit", and `sentence` says why.

    seeds, users, both: intervals of alpha; None without a law, and of seeds where there is one seed. without: share of
    the draws of both in which no size gains, so that there is no alpha.
    """

    axis: Axis
    x: tuple[float, ...]
    gain: tuple[float, ...]
    law: PowerLaw | None
    verdict: Verdict
    sentence: str
    seeds: Interval | None = None
    users: Interval | None = None
    both: Interval | None = None
    without: float = 0.0


def x_of(point: Point, axis: Axis) -> float:
    return point.dense / 1e6 if axis is PARAMETERS else point.flops / 1e9


def gain(gauc: float, baseline: float) -> float:
    """In per cent of the baseline."""
    return 100 * (gauc / baseline - 1)


Named = Mapping[str, Predictions]
"""Predictions of each seed, by what a message calls them."""


def draw(points: Sequence[Named], baseline: Named, draws: int, seed: int = 0) -> Draws:
    """GAUC of every run under the same resampled users.

    points: by size. Raises DataError where runs speak of different impressions.
    """
    runs = [(name, rows) for seeds in (*points, baseline) for name, rows in seeds.items()]
    aligned = align([rows for _, rows in runs], [name for name, _ in runs])
    codes, num_users = used_codes(aligned[0].user)
    labels = as_labels(aligned[0].label)
    metrics = [ResampledMetrics(labels, as_scores(rows.logit), codes, num_users) for rows in aligned]
    found: list[list[FloatArray]] = [[] for _ in runs]
    for counts_RU in user_counts(num_users, draws, seed):
        for parts, one in zip(found, metrics, strict=True):
            parts.append(one.compute(counts_RU)["gauc"])
    columns = iter([np.concatenate(parts) for parts in found])
    by_size = tuple(np.stack([next(columns) for _ in seeds], axis=1) for seeds in points)
    rest = [next(columns) for _ in baseline]
    return Draws(by_size, np.stack(rest, axis=1) if rest else np.full((draws, 1), CHANCE))


def fit_family(points: Sequence[Point], baseline: Sequence[float], drawn: Draws, axis: Axis) -> Fit:
    """baseline: GAUC of each of its seeds; none: chance."""
    reference = float(np.mean(baseline)) if len(baseline) else CHANCE
    x_S = np.array([x_of(point, axis) for point in points])
    gain_S = np.array([gain(float(np.mean(point.gauc)), reference) for point in points])
    values = (tuple(x_S.tolist()), tuple(gain_S.tolist()))
    why = _why_not(x_S, gain_S, axis)
    law = None if why else fit(x_S, gain_S)
    if law is None or abs(law.alpha) > STEEPEST - 1e-3:
        why = why or f"no power law goes through these gains: alpha would lie beyond {STEEPEST:g}, a step, not a slope."
        return Fit(axis, *values, None, "no fit", why)
    several = any(len(point.gauc) > 1 for point in points)
    start = baseline if len(baseline) else (CHANCE,)
    of_users = Draws(tuple(_mean(gauc_RN) for gauc_RN in drawn.points), _mean(drawn.baseline))
    moved = _moved_by_seeds([point.gauc for point in points], start, len(drawn.baseline))
    still = Draws(tuple(np.array([[np.mean(point.gauc)]]) for point in points), np.array([[np.mean(start)]]))
    users, seeds, both = (_alphas(x_S, d) for d in (of_users, _sum(still, moved), _sum(of_users, moved)))
    found = Fit(
        axis,
        *values,
        law,
        "flat",
        "",
        seeds=percentile_interval(law.alpha, seeds, CONFIDENCE) if several else None,
        users=percentile_interval(law.alpha, users, CONFIDENCE),
        both=percentile_interval(law.alpha, both, CONFIDENCE),
        without=float(np.isnan(both).mean()),
    )
    found = replace(found, verdict=_verdict(found))
    return replace(found, sentence=_sentence(found))


def _why_not(x_S: FloatArray, gain_S: FloatArray, axis: Axis) -> str:
    sizes = len(np.unique(x_S))
    if sizes < LEAST_SIZES:
        return f"no fit: {axis.letter} has {sizes} different value(s), in {axis.words}; a curve needs {LEAST_SIZES}."
    if (gain_S <= 0).all():
        return "no fit: no size has a gain over the baseline, so there is nothing that could follow a power law."
    return ""


def _mean(gauc_RN: FloatArray) -> FloatArray:
    return gauc_RN.mean(axis=1, keepdims=True)


def _moved_by_seeds(points: Sequence[Sequence[float]], baseline: Sequence[float], draws: int) -> Draws:
    """How far other seeds would move each mean, [R, 1]: 0 with one seed.

    Of GAUC on all users: what users add to it is drawn apart, and would count twice in seeds drawn under each sample.
    """
    random = np.random.default_rng(0)

    def moved(gauc: Sequence[float]) -> FloatArray:
        gauc_N, seeds = np.array(gauc), len(gauc)
        chosen_RN = random.integers(0, seeds, (draws, seeds))
        return _mean(gauc_N[chosen_RN] - gauc_N.mean()) * math.sqrt(seeds / max(1, seeds - 1))

    return Draws(tuple(moved(gauc) for gauc in points), moved(baseline))


def _sum(a: Draws, b: Draws) -> Draws:
    return Draws(tuple(one + two for one, two in zip(a.points, b.points, strict=True)), a.baseline + b.baseline)


def _alphas(x_S: FloatArray, means: Draws) -> FloatArray:
    """Alpha of every draw of means over seeds, [R]."""
    return alphas(x_S, 100 * (np.concatenate(means.points, axis=1) / means.baseline - 1))


def _verdict(found: Fit) -> Verdict:
    """Draws without any gain have no alpha; where they are more than the interval leaves out, nothing is shown."""
    assert found.both is not None
    if found.without > (1 - CONFIDENCE) / 2:
        return "flat"
    return "grows" if found.both.low > 0 else "shrinks" if found.both.high < 0 else "flat"


def _sentence(found: Fit) -> str:
    law, both, axis = found.law, found.both, found.axis
    assert law is not None
    assert both is not None
    assert found.users is not None
    curve = f"dGAUC = {law.scale:.3g} * {axis.letter}^{law.alpha:.3f} per cent, {axis.letter} in {axis.words}"
    drawn = "users alone, as there is one seed"
    if found.seeds is not None:
        drawn = f"users and seeds ({_ends(found.users)} over users, {_ends(found.seeds)} over seeds)"
    interval = f"alpha {law.alpha:.3f}, {CONFIDENCE:.0%} interval {_ends(both)} over {drawn}"
    missing = f"; {found.without:.1%} of the draws have no gain, hence no alpha" if found.without else ""
    holds = "since the interval holds 0" if both.low <= 0 <= both.high else "since many draws have no gain at all"
    said = {
        "grows": f"the gain grows with {axis.letter}",
        "shrinks": f"the gain shrinks with {axis.letter}",
        "flat": f"flat: it is not shown that the gain changes with {axis.letter}, {holds}",
    }[found.verdict]
    return f"{curve}; {interval}{missing}; {said}."


def _ends(interval: Interval) -> str:
    return f"{interval.low:.3f} .. {interval.high:.3f}"
