"""Blocks of full attention as bars: effective rank by layer, and what masking each costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from ctr_rec.inspect.figure import COLOURS, make_folder, new_figure, save_figure
from ctr_rec.metrics.bootstrap import Interval

# Differences of one metric by block and way of masking.
Differences = Mapping[str, Mapping[str, Interval]]


def plot_blocks(
    ranks: Mapping[str, tuple[Sequence[float], float]], masked: Mapping[str, Differences], out: Path
) -> list[Path]:
    """Writes blocks.png and blocks.svg. ranks: by block, of each layer and of queries that look alike.

    masked: by metric. Returns what was written. Raises ConfigError when the folder cannot be made.
    """
    make_folder(out)
    figure = new_figure(4.4 + 3.4 * len(masked), 3.4)
    panels = figure.subplots(1, 1 + len(masked), squeeze=False, width_ratios=(1.3, *(1 for _ in masked)))[0]
    _draw_ranks(panels[0], ranks)
    for panel, (metric, differences) in zip(panels[1:], masked.items(), strict=True):
        _draw_masked(panel, metric, differences)
    files = save_figure(figure, out, "blocks")
    return files


def _draw_ranks(panel: Axes, ranks: Mapping[str, tuple[Sequence[float], float]]) -> None:
    at, names = np.arange(len(ranks)), list(ranks)
    layers = max((len(by_layer) for by_layer, _ in ranks.values()), default=1)
    width = 0.8 / layers
    for depth in range(layers):
        heights = [by_layer[depth] for by_layer, _ in ranks.values()]
        colour = COLOURS[depth % len(COLOURS)]
        panel.bar(at - 0.4 + width * (depth + 0.5), heights, width, color=colour, label=f"layer {depth + 1}")
    alike = [value for _, value in ranks.values()]
    panel.hlines(alike, at - 0.45, at + 0.45, color="black", linewidth=1.2, label="all queries alike")
    panel.set_xticks(at, names)
    panel.set_ylabel("effective rank", fontsize=8)
    panel.set_title("diversity of each block", fontsize=10, loc="left")
    panel.legend(fontsize=7)
    panel.tick_params(labelsize=8)


def _draw_masked(panel: Axes, metric: str, differences: Differences) -> None:
    names = list(differences)
    ways = list(dict.fromkeys(way for of_block in differences.values() for way in of_block))
    for number, way in enumerate(ways):
        found = [differences[name][way] for name in names]
        at = np.arange(len(names)) + 0.24 * (number - (len(ways) - 1) / 2)
        value = 100 * np.array([i.value for i in found])
        reach = np.abs(100 * np.array([[i.low for i in found], [i.high for i in found]]) - value)
        panel.errorbar(at, value, yerr=reach, fmt="o", markersize=4, capsize=3, color=COLOURS[2 * number], label=way)
    panel.axhline(0, color="black", linewidth=0.8)
    panel.set_xticks(np.arange(len(names)), names)
    panel.set_ylabel("difference in percentage points", fontsize=8)
    panel.set_title(f"{metric.upper()} with the block masked", fontsize=10, loc="left")
    panel.legend(fontsize=7)
    panel.tick_params(labelsize=8)
