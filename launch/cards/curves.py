"""Validation metrics over training, read from runs and drawn: a thin line per seed, a thick one for their mean."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Curve:
    """value of a metric at `x` (epochs, or impressions in thousands)."""

    x: tuple[float, ...]
    value: tuple[float, ...]

    def at(self, x: float) -> float:
        """The value at x, on the line between the measured points beside it. Raises ValueError beyond the last one."""
        if x > self.x[-1] + 0.01:
            raise ValueError(f"no value at {x}; measured up to {self.x[-1]:g}")
        return float(np.interp(x, self.x, self.value))

    def plain(self) -> dict[str, list[float]]:
        return {"x": list(self.x), "value": list(self.value)}


def curve_of(run: Path, metric: str, length: float) -> Curve:
    """The validation lines of a finished run's metrics.jsonl. length: what its last step is on the x axis."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = [line for line in lines if line["kind"] == "valid"]
    last = json.loads((run / "clean-stop.json").read_text())["step"]
    return Curve(tuple(line["step"] / last * length for line in found), tuple(line[metric] for line in found))


def by_passes(found: Mapping[str, Sequence[Curve]], last: str, value: Callable[[Curve], float]) -> str:
    """Mean and deviation over seeds after a quarter, one and two passes, and `value` of each curve under `last`."""
    lines = [f"| run | after 1/4 | after 1 | after 2 | {last} |", "|---|---|---|---|---|"]
    for name, seeds in found.items():
        cells = [[c.at(x) for c in seeds] for x in (0.25, 1.0, 2.0)] + [[value(c) for c in seeds]]
        shown = (f"{statistics.fmean(values):.4f} ± {statistics.stdev(values):.4f}" for values in cells)
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def by_epoch(found: Mapping[str, Sequence[Curve]], epochs: int) -> str:
    """Mean and deviation over seeds after each epoch, and what the last adds to the first, paired by seed."""
    heads = [f"after {e}" for e in range(1, epochs + 1)]
    lines = [f"| run | {' | '.join(heads)} | {epochs} - 1, paired |", "|---" * (epochs + 2) + "|"]
    for name, seeds in found.items():
        ends = [[c.at(float(e)) for c in seeds] for e in range(1, epochs + 1)]
        gain = [last - first for first, last in zip(ends[0], ends[-1], strict=True)]
        cells = [f"{statistics.fmean(values):.4f} ± {statistics.stdev(values):.4f}" for values in ends]
        cells.append(f"{statistics.fmean(gain):+.4f} ± {statistics.stdev(gain):.4f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(
    curves: Mapping[str, Sequence[Curve]], path: Path, x: str, y: str, panel: Callable[[str], str] = lambda _: ""
) -> None:
    """panel: names of curves to the panel they belong to. Seeds of one name are measured at the same places."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys(panel(name) for name in curves))
    figure = Figure(figsize=(4.6 * len(panels) + 0.8, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, title in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for number, (name, seeds) in enumerate((n, s) for n, s in curves.items() if panel(n) == title):
            for curve in seeds:
                axes.plot(curve.x, curve.value, color=f"C{number}", linewidth=0.8, alpha=0.4)
            mean = np.mean([curve.value for curve in seeds], axis=0)
            axes.plot(seeds[0].x, mean, color=f"C{number}", linewidth=2, marker="o", markersize=3, label=name)
        axes.set(title=title, xlabel=x, ylabel=y)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(path)
