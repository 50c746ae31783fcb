"""What a model costs beside how well it ranks, and which models no other one beats in both: the Pareto front."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib

from ctr_rec.inspect.figure import new_figure


@dataclass(frozen=True)
class Cost:
    """dense: parameters of tower and head. request: FLOPs of one forward pass over 60 candidates of a user, without
    comparing contents, which can be done ahead (retrieval, tiers of likeness, CSA's neighbours).

    gauc: of a split, one for each seed.
    """

    model: str
    dense: int
    request: float
    gauc: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.gauc)

    def plain(self) -> dict[str, Any]:
        """For results.json."""
        return asdict(self)


def read(model: str, runs: Sequence[Path], split: str) -> Cost:
    """Of finished runs of one model. The cost is that of the first: all have the same parameters and batches."""
    found = [json.loads((run / "metrics" / f"{split}.json").read_text()) for run in runs]
    counted = found[0]["cost"]
    gauc = tuple(one["metrics"]["gauc"] for one in found)
    return Cost(model, counted["dense"], counted["flops_per_request"], gauc)


def front(costs: Sequence[Cost]) -> list[Cost]:
    """Models that no other one beats at as little arithmetic or less, cheapest first."""
    found: list[Cost] = []
    for one in sorted(costs, key=lambda c: (c.request, -c.mean)):
        if not found or one.mean > found[-1].mean:
            found.append(one)
    return found


def table(costs: Sequence[Cost]) -> str:
    """Parameters, arithmetic, GAUC and whether the model is on the front, cheapest first."""
    best = front(costs)
    lines = ["### Cost", "", "GFLOPs are per request of 60 candidates, without comparing contents.", ""]
    lines += ["| model | dense parameters | GFLOPs | GAUC | on the front |", "|---|---|---|---|---|"]
    for one in sorted(costs, key=lambda c: c.request):
        on = "yes" if one in best else ""
        lines.append(f"| {one.model} | {one.dense:,} | {one.request / 1e9:.4f} | {one.mean:.4f} | {on} |")
    return "\n".join(lines) + "\n"


def plot(costs: Sequence[Cost], path: Path, split: str) -> None:
    """Mean GAUC with the seeds' range against arithmetic, and the front as steps."""
    figure = new_figure(7.2, 4.4)
    axes, tab20 = figure.subplots(), matplotlib.colormaps["tab20"]
    for number, one in enumerate(costs):
        down, up = one.mean - min(one.gauc), max(one.gauc) - one.mean
        axes.errorbar(one.request / 1e9, one.mean, [[down], [up]], fmt="o", color=tab20(number % 20), capsize=2)
        axes.annotate(one.model, (one.request / 1e9, one.mean), xytext=(5, 4), textcoords="offset points", fontsize=8)
    best = front(costs)
    axes.plot(
        [c.request / 1e9 for c in best],
        [c.mean for c in best],
        drawstyle="steps-post",
        color="grey",
        linewidth=1,
        label="no model is better for as little",
    )
    axes.set(xscale="log", xlabel="GFLOPs per request of 60 candidates", ylabel=f"{split} GAUC")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path)
