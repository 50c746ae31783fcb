"""The curve of every family: gain against parameters and against FLOPs, points per seed, the law through them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from ctr_rec.scale.curve import AXES, Fit, Point, gain

_MOST_TICKS = 6
_COLOURS = ("#4269d0", "#d9822b", "#2d8659", "#a463f2")


def draw_curves(
    found: Mapping[str, Sequence[Fit]],
    points: Mapping[str, Sequence[Point]],
    reference: float,
    against: str,
    path: Path,
) -> None:
    """found, points: by family, fits in the order of AXES. reference: GAUC that gains are counted from.

    path: its suffix (.png, .svg) chooses the format.
    """
    figure = Figure(figsize=(9.6, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    for number, (panel, axis) in enumerate(zip(figure.subplots(1, 2, sharey=True), AXES, strict=True)):
        panel.axhline(0, color="#8c959f", linewidth=0.8)
        for colour, name in zip(_COLOURS * len(found), found, strict=False):
            _family(panel, name, found[name][number], points[name], reference, colour)
        _scale(panel, sorted({x for fits in found.values() for x in fits[number].x}))
        panel.set_xlabel(axis.words)
        panel.grid(alpha=0.3)
        panel.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1))
    figure.axes[0].set_ylabel(f"GAUC, gain over {against} in per cent")
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def _scale(panel: Axes, sizes: Sequence[float]) -> None:
    """Ticks stand at the sizes themselves while they are few: a decade rarely fits between them."""
    panel.set_xscale("log")
    if len(sizes) <= _MOST_TICKS:
        panel.set_xticks(sizes, [f"{x:.3g}" for x in sizes])
    else:
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
        panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_formatter(NullFormatter())


def _family(panel: Axes, name: str, found: Fit, points: Sequence[Point], reference: float, colour: str) -> None:
    for x, point in zip(found.x, points, strict=True):
        each = [gain(value, reference) for value in point.gauc]
        panel.plot([x] * len(each), each, "o", color=colour, markersize=4, alpha=0.4, markeredgewidth=0)
    label = f"{name}: {found.verdict}"
    if found.law is not None and found.both is not None:
        line = np.geomspace(min(found.x), max(found.x), 100)
        panel.plot(line, found.law.at(line), color=colour, linewidth=1.5)
        label = f"{name}: alpha {found.law.alpha:.2f} ({found.both.low:.2f} .. {found.both.high:.2f}), {found.verdict}"
    panel.plot(found.x, found.gain, "D", color=colour, markersize=6, label=label)
    for x, mean, point in zip(found.x, found.gain, points, strict=True):
        size = point.name.partition("=")[2]
        panel.annotate(size, (x, mean), xytext=(6, 4), textcoords="offset points", fontsize=8, color=colour)
