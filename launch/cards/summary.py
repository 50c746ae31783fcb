"""From finished runs to a result card: means and spread over seeds, paired intervals, a table and a plot."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctr_rec.evaluate.compare import Comparison, compare
from ctr_rec.evaluate.predictions import Predictions

METRICS = ("auc", "gauc", "logloss")


@dataclass(frozen=True)
class Row:
    """One model on one cut: each metric per seed by split; against: the paired difference to the reference on test."""

    cut: str
    model: str
    runs: tuple[Path, ...]
    values: Mapping[str, Mapping[str, tuple[float, ...]]]
    test_scored: int
    against: Comparison | None

    def cell(self, split: str, metric: str) -> str:
        """Mean and, over several seeds, standard deviation."""
        seeds = self.values[split][metric]
        spread = f" ± {statistics.stdev(seeds):.4f}" if len(seeds) > 1 else ""
        return f"{statistics.fmean(seeds):.4f}{spread}"

    def difference(self, metric: str) -> str:
        """Difference to the reference with its interval, starred where the interval leaves zero out."""
        if self.against is None:
            return ""
        found = self.against.difference(metric)
        return f"{found.difference:+.4f} [{found.low:+.4f}, {found.high:+.4f}]" + ("*" if found.resolvable else "")

    def plain(self) -> dict[str, Any]:
        """For results.json."""
        against = json.loads(self.against.to_json()) if self.against is not None else None
        return {
            "cut": self.cut,
            "model": self.model,
            "seeds": len(self.runs),
            "test_scored": self.test_scored,
            "values": {split: dict(metrics) for split, metrics in self.values.items()},
            "against_reference": against,
        }


def read_row(cut: str, model: str, runs: Sequence[Path], reference: Path | Sequence[Path] | None) -> Row:
    """Reads the metrics of finished runs.

    reference: run whose test predictions each seed is paired with, or one for each seed.
    """
    values = {
        split: {m: tuple(_metrics(run, split)[m] for run in runs) for m in METRICS} for split in ("valid", "test")
    }
    scored = sum(len(json.loads(path.read_text())["scored"]) for run in runs for path in run.glob("test-scored.json"))
    against = None
    if reference is not None:
        others = [reference] * len(runs) if isinstance(reference, Path) else list(reference)
        theirs, mine = ([Predictions.load(r / "predictions" / "test.parquet") for r in side] for side in (others, runs))
        against = compare(theirs, mine, (others[0].name, model), "test")
    return Row(cut, model, tuple(runs), values, scored, against)


def _metrics(run: Path, split: str) -> dict[str, float]:
    return json.loads((run / "metrics" / f"{split}.json").read_text())["metrics"]


def markdown(rows: Sequence[Row], reference: str) -> str:
    """One table per cut."""
    out = []
    for cut in dict.fromkeys(row.cut for row in rows):
        out += [f"### Cut `{cut}`", ""]
        out += [
            "| model | seeds | valid AUC | valid GAUC | test AUC | test GAUC "
            f"| AUC - {reference} | GAUC - {reference} |"
        ]
        out += ["|---|---|---|---|---|---|---|---|"]
        for row in (r for r in rows if r.cut == cut):
            cells = [row.cell(split, metric) for split in ("valid", "test") for metric in ("auc", "gauc")]
            cells += [row.difference("auc"), row.difference("gauc")]
            out.append(f"| {row.model} | {len(row.runs)} | {' | '.join(cells)} |")
        out.append("")
    return "\n".join(out)


def plot(rows: Sequence[Row], path: Path) -> None:
    """Test AUC against test GAUC, a dot per seed, a panel per cut."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    cuts = list(dict.fromkeys(row.cut for row in rows))
    models = list(dict.fromkeys(row.model for row in rows))
    figure = Figure(figsize=(4.2 * len(cuts) + 1.6, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(cuts), squeeze=False)[0]
    for axes, cut in zip(panels, cuts, strict=True):
        for row in (r for r in rows if r.cut == cut):
            mark = "o" if len(row.runs) > 1 else "D"
            test = row.values["test"]
            axes.scatter(test["gauc"], test["auc"], label=row.model, marker=mark, color=f"C{models.index(row.model)}")
        axes.set(title=f"cut {cut}", xlabel="test GAUC", ylabel="test AUC")
        axes.locator_params(axis="x", nbins=5)
        axes.grid(alpha=0.3)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
    figure.savefig(path)
