"""The distribution of row norms, a panel per table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from ctr_rec.checkpoint.row_statistics import PER_DECADE, RowStatistics, edges
from ctr_rec.inspect.figure import make_folder, new_figure, save_figure

PANELS_PER_ROW = 3


def plot_row_norms(tables: Mapping[str, tuple[str, RowStatistics]], out: Path) -> list[Path]:
    """Writes row_norms.png and row_norms.svg. tables: short name and statistics by full name.

    Returns what was written, nothing without a table. Raises ConfigError when the folder cannot be made.
    """
    if not tables:
        return []
    make_folder(out)
    columns = min(PANELS_PER_ROW, len(tables))
    rows = -(-len(tables) // columns)
    figure = new_figure(3.6 * columns, 2.6 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, (name, statistics) in zip(panels, tables.values(), strict=False):
        _draw(panel, name, statistics)
    for panel in panels[len(tables) :]:
        panel.set_visible(False)
    return save_figure(figure, out, "row_norms")


def _draw(panel: Axes, name: str, statistics: RowStatistics) -> None:
    used = np.flatnonzero(statistics.counts)
    low, high = (used[0], used[-1] + 1) if len(used) else (0, PER_DECADE)
    panel.stairs(statistics.counts[low:high], 10 ** edges()[low : high + 1], fill=True, color="#4269d0")
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_formatter(NullFormatter())
    dead = "" if statistics.dead is None else f", {statistics.dead:,} dead"
    panel.set_title(f"{name}: {statistics.rows:,} rows{dead}", fontsize=9)
    panel.set_xlabel("norm of a row", fontsize=8)
    panel.set_ylabel("rows", fontsize=8)
    panel.tick_params(labelsize=7)
