"""Is run b better than run a? Paired on impressions, resampled by user, with an interval for every difference.

Both sides score the same impressions, so a difference is far steadier than either metric. A user's impressions are
correlated, so the bootstrap draws users. With several seeds on each side, metrics are averaged over seeds, seeds are
paired in the order given, and one draw of users serves all of them. The interval speaks of users only; the spread
over seeds is reported beside it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ctr_rec.errors import ConfigError, DataError
from ctr_rec.evaluate.predictions import Predictions
from ctr_rec.metrics.bootstrap import (
    RESAMPLED_KEYS,
    ResampledMetrics,
    percentile_interval,
    used_codes,
    user_counts,
)
from ctr_rec.metrics.inputs import Codes, as_labels, as_scores
from ctr_rec.metrics.ranking import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HIGHER_IS_BETTER = {"auc": True, "gauc": True, "logloss": False, "ne": False}
_SHOWN_IDS = 3
_COLOURS = {"better": "#1a7f37", "worse": "#cf222e", "unresolved": "#57606a"}


@dataclass(frozen=True)
class MetricDifference:
    """One metric of both sides and their paired difference.

    a, b: mean over seeds. difference: b - a. low, high: percentile interval of the difference under resampled users.
    p_value: two-sided, from the same replicates, so never below 2 / (replicates + 1).
    per_seed: the difference of each pair of seeds. seed_deviation: their standard deviation, NaN with one pair.
    verdict: "better" or "worse" (of b, whichever way the metric points) or "unresolved".
    replicates: how many had the metric defined.
    """

    metric: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    p_value: float
    per_seed: tuple[float, ...]
    seed_deviation: float
    verdict: str
    replicates: int

    @property
    def resolvable(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.verdict != "unresolved"


@dataclass(frozen=True)
class Comparison:
    """Every metric of a paired comparison, and what it rests on."""

    name_a: str
    name_b: str
    split: str
    impressions: int
    users: int
    positives: int
    seeds: int
    replicates: int
    confidence: float
    differences: tuple[MetricDifference, ...]

    def difference(self, metric: str) -> MetricDifference:
        """The row of one of `auc`, `gauc`, `logloss`, `ne`."""
        return next(found for found in self.differences if found.metric == metric)

    def statements(self) -> list[str]:
        """One plain sentence per metric."""
        return [_statement(found, self) for found in self.differences]

    def table(self) -> Table:
        """A rich table of all metrics, 80 columns wide at most."""
        title = f"{self.name_b} (b) against {self.name_a} (a), {self.split}: {self.impressions:,} impressions"
        caption = f"{self.confidence:.0%} interval from {self.users:,} users drawn {self.replicates:,} times"
        headings = ["metric", "a", "b", "b - a", "low", "high", "p", "b is"]
        if self.seeds > 1:
            headings.insert(-1, "seed sd")
            caption += f"; {self.seeds} pairs of runs"
        table = Table(title=title, caption=caption, box=SIMPLE_HEAD, padding=0)
        for heading in headings:
            table.add_column(heading, justify="left" if heading in ("metric", "b is") else "right", no_wrap=True)
        for found in self.differences:
            cells = [f"{found.a:.5f}", f"{found.b:.5f}"]
            cells += [f"{value:+.5f}" for value in (found.difference, found.low, found.high)]
            cells += [f"{found.p_value:.3f}"] + [f"{found.seed_deviation:.5f}"] * (self.seeds > 1)
            table.add_row(found.metric, *cells, found.verdict)
        return table

    def to_json(self) -> str:
        """All figures; a figure that is not finite is null."""
        return json.dumps(_finite(asdict(self)), indent=2)

    def save_plot(self, path: Path) -> None:
        """A forest plot: per metric the difference, its interval and each pair of seeds. The suffix (.png, .svg)
        chooses the format."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 0.6 + 0.85 * len(self.differences)), layout="constrained")
        FigureCanvasAgg(figure)
        rows = figure.subplots(len(self.differences), 1, squeeze=False)[:, 0]
        for axes, found in zip(rows, self.differences, strict=True):
            _draw(axes, found)
        figure.suptitle(f"{self.name_b} - {self.name_a}, {self.split}, {self.confidence:.0%} interval over users")
        figure.savefig(path, dpi=150)


def compare(
    a: Sequence[Predictions],
    b: Sequence[Predictions],
    names: tuple[str, str] = ("a", "b"),
    split: str = "",
    replicates: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Comparison:
    """The paired difference b - a of AUC, GAUC, logloss and NE.

    Args:
        a, b: predictions of each side, one per seed, paired in order; all over the same impressions, in any row order.
        names: what the sides are called in tables and messages.
        split: what the predictions cover, for the title.
        replicates: draws of users.
        seed: of the draws; the same seed gives the same interval.
        confidence: share of the replicates inside the interval.

    Raises:
        ConfigError: no run, or another number of runs on each side, or an impossible setting.
        DataError: impressions that repeat, or impressions, labels or users that differ between files; NaN logits.
    """
    if not a or len(a) != len(b):
        raise ConfigError(f"compare: expected as many runs on each side, got {len(a)} and {len(b)}; pair them by seed")
    sources = [_source(name, i, len(side)) for name, side in zip(names, (a, b), strict=True) for i in range(len(side))]
    aligned = align([*a, *b], sources)
    codes, num_users = used_codes(aligned[0].user)
    labels = as_labels(aligned[0].label)
    metrics = [_metrics(rows, codes, num_users, source) for rows, source in zip(aligned, sources, strict=True)]
    side_a, side_b = metrics[: len(a)], metrics[len(a) :]
    drawn = _replicate(side_a, side_b, user_counts(num_users, replicates, seed))
    points_a, points_b = [one.point() for one in side_a], [one.point() for one in side_b]
    differences = tuple(
        _difference(key, [p[key] for p in points_a], [p[key] for p in points_b], drawn[key], confidence)
        for key in RESAMPLED_KEYS
    )
    return Comparison(
        name_a=names[0],
        name_b=names[1],
        split=split,
        impressions=len(labels),
        users=num_users,
        positives=int(np.count_nonzero(labels)),
        seeds=len(a),
        replicates=replicates,
        confidence=confidence,
        differences=differences,
    )


def compare_runs(
    run_a: Sequence[Path],
    run_b: Sequence[Path],
    split: str,
    out: Path | None = None,
    replicates: int = 1000,
    seed: int = 0,
    console: Console | None = None,
) -> Comparison:
    """Compare run folders by their `predictions/<split>.parquet`, and print the table and one sentence per metric.

    Args:
        run_a, run_b: run folders of each side, one per seed, paired in order.
        split: `valid` or `test`.
        out: folder for `compare-<split>.json`, `.png` and `.svg`; nothing is written without it.
        replicates, seed: as in `compare`.
        console: where to print; standard output by default.

    Raises:
        ConfigError, DataError: as `compare`; a missing or damaged file is named.
    """
    loaded = [[_load(run, split) for run in runs] for runs in (run_a, run_b)]
    found = compare(loaded[0], loaded[1], _side_names(run_a, run_b), split, replicates, seed)
    console = console or Console()
    console.print(found.table())
    for statement in found.statements():
        console.print(statement, highlight=False)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"compare-{split}.json").write_text(found.to_json() + "\n")
        for suffix in ("png", "svg"):
            found.save_plot(out / f"compare-{split}.{suffix}")
        console.print(f"Figures and plot: {out / f'compare-{split}'}.json, .png, .svg", highlight=False)
    return found


def align(files: Sequence[Predictions], sources: Sequence[str]) -> list[Predictions]:
    """The same predictions in order of impression, once it is sure that all speak of the same impressions.

    Raises:
        DataError: repeated impressions, or impressions, labels or users that differ; says how many and the first ones.
    """
    ordered = [rows.sorted() for rows in files]
    first, first_source = ordered[0], sources[0]
    if not len(first):
        raise DataError(
            f"{first_source}: expected at least one impression, got none; evaluate on a split that has some"
        )
    for rows, source in zip(ordered, sources, strict=True):
        _refuse_repeats(rows, source)
        _refuse_other_impressions(first, rows, first_source, source)
        _refuse_other_values(first, rows, first_source, source, "label")
        _refuse_other_values(first, rows, first_source, source, "user")
    return ordered


def _refuse_repeats(rows: Predictions, source: str) -> None:
    repeated = np.unique(rows.impression[1:][rows.impression[1:] == rows.impression[:-1]])
    if len(repeated):
        raise DataError(f"{source}: expected every impression once, got {_some(repeated)} repeated; predict again")


def _refuse_other_impressions(first: Predictions, rows: Predictions, first_source: str, source: str) -> None:
    missing = np.setdiff1d(first.impression, rows.impression, assume_unique=True)
    extra = np.setdiff1d(rows.impression, first.impression, assume_unique=True)
    if len(missing) or len(extra):
        raise DataError(
            f"{source}: expected the {len(first):,} impressions of {first_source}, got {_some(missing)} missing and "
            f"{_some(extra)} more; evaluate all runs on the same split of the same log"
        )


def _refuse_other_values(first: Predictions, rows: Predictions, first_source: str, source: str, column: str) -> None:
    differ = np.flatnonzero(getattr(first, column) != getattr(rows, column))
    if len(differ):
        raise DataError(
            f"{source}: expected the {column} column of {first_source}, got another value for {len(differ):,} "
            f"impressions (first {_first(first.impression[differ])}); evaluate all runs on the same prepared log"
        )


def _some(ids: npt.NDArray[np.int64]) -> str:
    return f"{len(ids):,} (first {_first(ids)})" if len(ids) else "0"


def _first(ids: npt.NDArray[np.int64]) -> str:
    return ", ".join(str(found) for found in ids[:_SHOWN_IDS].tolist())


def _metrics(rows: Predictions, codes: Codes, num_users: int, source: str) -> ResampledMetrics:
    try:
        return ResampledMetrics(as_labels(rows.label), as_scores(rows.logit), codes, num_users)
    except DataError as error:
        raise DataError(f"{source}, rows in order of impression: {error}") from error


def _replicate(
    side_a: list[ResampledMetrics], side_b: list[ResampledMetrics], draws: Iterator[npt.NDArray[np.int64]]
) -> dict[str, FloatArray]:
    """Difference b - a of the means over seeds, per metric and replicate."""
    chunks: dict[str, list[FloatArray]] = {key: [] for key in RESAMPLED_KEYS}
    for counts_RU in draws:
        found_a = [one.compute(counts_RU) for one in side_a]
        found_b = [one.compute(counts_RU) for one in side_b]
        for key in RESAMPLED_KEYS:
            pairs = [b[key] - a[key] for a, b in zip(found_a, found_b, strict=True)]
            chunks[key].append(np.mean(pairs, axis=0))
    return {key: np.concatenate(parts) for key, parts in chunks.items()}


def _difference(metric: str, a: list[float], b: list[float], drawn: FloatArray, confidence: float) -> MetricDifference:
    per_seed = tuple(two - one for one, two in zip(a, b, strict=True))
    interval = percentile_interval(float(np.mean(per_seed)), drawn, confidence)
    verdict = "unresolved"
    if interval.low > 0 or interval.high < 0:
        verdict = "better" if (interval.low > 0) == HIGHER_IS_BETTER[metric] else "worse"
    return MetricDifference(
        metric=metric,
        a=float(np.mean(a)),
        b=float(np.mean(b)),
        difference=interval.value,
        low=interval.low,
        high=interval.high,
        p_value=_p_value(drawn),
        per_seed=per_seed,
        seed_deviation=float(np.std(per_seed, ddof=1)) if len(per_seed) > 1 else math.nan,
        verdict=verdict,
        replicates=int(np.count_nonzero(~np.isnan(drawn))),
    )


def _p_value(drawn: FloatArray) -> float:
    """Two-sided: twice the share of replicates beyond zero on the smaller side, counting the data itself as one."""
    defined = drawn[~np.isnan(drawn)]
    if not len(defined):
        return math.nan
    beyond = min(np.count_nonzero(defined <= 0), np.count_nonzero(defined >= 0))
    return min(1.0, 2 * (1 + int(beyond)) / (1 + len(defined)))


def _statement(found: MetricDifference, whole: Comparison) -> str:
    if math.isnan(found.difference):
        return f"{found.metric}: undefined here, as a class is missing (overall or inside every user)."
    interval = f"{found.low:+.6f} .. {found.high:+.6f}"
    if found.resolvable:
        text = f"{whole.name_b} is {found.verdict} than {whole.name_a} by {abs(found.difference):.6f}"
    else:
        text = f"the difference {found.difference:+.6f} is not resolvable with {whole.users:,} users"
    seeds = "; the seeds disagree on the sign" if min(found.per_seed) < 0 < max(found.per_seed) else ""
    return f"{found.metric}: {text} ({whole.confidence:.0%} interval {interval}, p {found.p_value:.3f}){seeds}."


def _draw(axes: Axes, found: MetricDifference) -> None:
    colour = _COLOURS[found.verdict]
    axes.axvline(0, color="black", linewidth=0.8)
    if len(found.per_seed) > 1:
        axes.plot(found.per_seed, [0] * len(found.per_seed), "|", color=colour, markersize=14, alpha=0.5)
    axes.plot([found.low, found.high], [0, 0], color=colour, linewidth=2)
    axes.plot([found.difference], [0], "o", color=colour)
    good = "right" if HIGHER_IS_BETTER[found.metric] else "left"
    axes.set_yticks([0], [f"{found.metric}\n({good} is better)"])
    axes.set_ylim(-1, 1)
    axes.ticklabel_format(axis="x", style="plain", useOffset=False)
    axes.margins(x=0.15)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _load(run: Path, split: str) -> Predictions:
    return Predictions.load(run / "predictions" / f"{split}.parquet")


def _side_names(run_a: Sequence[Path], run_b: Sequence[Path]) -> tuple[str, str]:
    """Folder names, with their parents where the last part alone would call both sides the same."""
    for parts in (1, 2):
        name_a, name_b = _side_name(run_a, parts), _side_name(run_b, parts)
        if name_a != name_b:
            return name_a, name_b
    return f"{name_a} (a)", f"{name_b} (b)"


def _side_name(runs: Sequence[Path], parts: int) -> str:
    names = ["/".join(run.resolve().parts[-parts:]) for run in runs]
    return " and ".join(names[:1] + [f"{len(names) - 1} more"] * (len(names) > 1))


def _source(name: str, index: int, num_runs: int) -> str:
    return name if num_runs == 1 else f"run {index + 1} of {name}"


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
