"""Curves over the length of the input, drawn and as tables: mean and spread over seeds beside how many have so much."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AT_TEST, RETRAINED = "cut at test", "trained with the cut"
METRICS = ("auc", "gauc")


@dataclass(frozen=True)
class Point:
    """Both metrics of a model at a length (None: its whole history), a value per seed."""

    model: str
    arm: str
    length: int | None
    auc: tuple[float, ...]
    gauc: tuple[float, ...]

    def of(self, metric: str) -> tuple[float, ...]:
        return self.auc if metric == "auc" else self.gauc

    def cell(self, metric: str) -> str:
        """Mean and, over several seeds, standard deviation."""
        return f"{statistics.fmean(self.of(metric)):.4f}" + (
            f" ± {self.spread(metric):.4f}" if len(self.auc) > 1 else ""
        )

    def spread(self, metric: str) -> float:
        return statistics.stdev(self.of(metric)) if len(self.auc) > 1 else 0.0


@dataclass(frozen=True)
class Panel:
    """with_history: impressions with at least so many visible events. best: of the truth, where it is known."""

    log: str
    impressions: int
    with_history: Mapping[int, int]
    points: tuple[Point, ...]
    best: Mapping[str, float] | None

    def curve(self, model: str, arm: str) -> list[Point]:
        """Ascending, the whole history last."""
        found = [p for p in self.points if (p.model, p.arm) == (model, arm)]
        return sorted(found, key=lambda p: p.length or 10**9)

    def curves(self) -> list[tuple[str, str]]:
        return list(dict.fromkeys((p.model, p.arm) for p in self.points))

    def plain(self) -> dict[str, Any]:
        """For results.json."""
        return {
            "log": self.log,
            "impressions": self.impressions,
            "with_history": dict(self.with_history),
            "best": None if self.best is None else dict(self.best),
            "points": [vars(p) for p in self.points],
        }


def table(panels: Sequence[Panel]) -> str:
    """A table per log and metric, a column per length."""
    out = []
    for panel in panels:
        lengths = [*panel.with_history, None]
        counts = [f"{panel.with_history[n]:,}" if n is not None else f"{panel.impressions:,}" for n in lengths]
        for metric in METRICS:
            best = "" if panel.best is None else f", best reachable {panel.best[metric]:.4f}"
            out += [f"### `{panel.log}`, {metric.upper()}{best}", ""]
            out += ["| model | " + " | ".join("whole" if n is None else f"{n:,}" for n in lengths) + " |"]
            out += ["|---" * (len(lengths) + 1) + "|"]
            out += ["| impressions with so much history | " + " | ".join(counts) + " |"]
            for model, arm in panel.curves():
                cells = {p.length: p.cell(metric) for p in panel.curve(model, arm)}
                out += [f"| {model}, {arm} | " + " | ".join(cells.get(n, "") for n in lengths) + " |"]
            out.append("")
    return "\n".join(out)


def draw(panels: Sequence[Panel], path: Path) -> None:
    """A column of plots per log, a row per metric; the whole history stands behind the longest cut."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0 * len(panels) + 1.2, 7.0), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(METRICS), len(panels), squeeze=False)
    for row, metric in enumerate(METRICS):
        for axes, panel in zip(grid[row], panels, strict=True):
            _draw_bars(axes, panel)
            _draw_curves(axes, panel, metric)
            axes.set(title=panel.log if row == 0 else "", ylabel=metric.upper())
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path)


def _draw_bars(axes: Axes, panel: Panel) -> None:
    behind = axes.twinx()
    counts = [*panel.with_history.values(), panel.impressions]
    behind.bar(range(len(counts)), counts, color="0.9", width=0.8)
    behind.set_ylabel("impressions with so much history", color="0.5")
    behind.tick_params(axis="y", colors="0.5")
    axes.set_zorder(behind.get_zorder() + 1)
    axes.patch.set_visible(False)


def _draw_curves(axes: Axes, panel: Panel, metric: str) -> None:
    at = {length: number for number, length in enumerate([*panel.with_history, None])}
    models = list(dict.fromkeys(p.model for p in panel.points))
    for model, arm in panel.curves():
        points = panel.curve(model, arm)
        axes.errorbar(
            [at[p.length] for p in points],
            [statistics.fmean(p.of(metric)) for p in points],
            yerr=[p.spread(metric) for p in points],
            color=f"C{models.index(model)}",
            linestyle="-" if arm == AT_TEST else "--",
            marker="o" if arm == AT_TEST else "s",
            markerfacecolor=None if arm == AT_TEST else "white",
            markersize=4,
            capsize=2,
            label=f"{model}, {arm}",
        )
    if panel.best is not None:
        axes.axhline(panel.best[metric], color="0.3", linestyle=":", label="best reachable")
    axes.set_xticks(list(at.values()), ["whole" if n is None else str(n) for n in at])
    axes.set_xlabel("newest visible events given to an impression")
    axes.grid(alpha=0.3)
