"""Attention mass as bars: a row of panels per channel, one bar per layer, a line where equal weights would be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes

from ctr_rec.inspect.attention_mass import Mass
from ctr_rec.inspect.figure import COLOURS, make_folder, new_figure, save_figure

Groups = Callable[[Mass], Iterator[tuple[str, slice]]]


def plot_attention(
    layers: Mapping[str, Sequence[Mass]],
    even: Mapping[str, Mass],
    actions: Sequence[str],
    positions: Groups,
    times: Groups,
    out: Path,
) -> list[Path]:
    """Writes attention.png and attention.svg. layers, even: shares by channel; positions, times: how to group buckets.

    Returns what was written. Raises ConfigError when the folder cannot be made.
    """
    make_folder(out)
    figure = new_figure(13, 3.1 * len(layers))
    panels = figure.subplots(len(layers), 3, squeeze=False, width_ratios=(1, 1.5, 0.7))
    for (name, masses), row in zip(layers.items(), panels, strict=True):
        codes = [(action, slice(code, code + 1)) for code, action in enumerate(actions)]
        for panel, part, groups, label in (
            (row[0], "position", list(positions(even[name])), "relative position of the key (1: newest)"),
            (row[1], "time", list(times(even[name])), "age of the key, at least"),
            (row[2], "action", codes, "action of the key"),
        ):
            columns = [_shares(mass, part, groups) for mass in (*masses, even[name])]
            names = [group for group, _ in groups]
            if part == "position":
                columns = [[100 * m.own, *c] for m, c in zip((*masses, even[name]), columns, strict=True)]
                names = ["own key", *names]
            _draw(panel, columns, names, label)
        row[0].set_title(f"channel {name}", fontsize=10, loc="left")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside upper right", ncols=9, fontsize=8)
    return save_figure(figure, out, "attention")


def _shares(mass: Mass, part: str, groups: Sequence[tuple[str, slice]]) -> list[float]:
    values: torch.Tensor = getattr(mass, part)
    return [100 * float(values[where].sum()) for _, where in groups]


def _draw(panel: Axes, columns: Sequence[Sequence[float]], names: Sequence[str], label: str) -> None:
    """columns: the layers, then equal weights."""
    at, width = np.arange(len(names)), 0.8 / max(len(columns) - 1, 1)
    for depth, column in enumerate(columns[:-1]):
        colour = COLOURS[depth % len(COLOURS)]
        panel.bar(at - 0.4 + width * (depth + 0.5), column, width, color=colour, label=f"layer {depth + 1}")
    panel.hlines(columns[-1], at - 0.45, at + 0.45, color="black", linewidth=1.2, label="equal weights")
    panel.set_xticks(at, names, rotation=60, ha="right", rotation_mode="anchor")
    panel.tick_params(labelsize=7)
    panel.set_xlabel(label, fontsize=8)
    panel.set_ylabel("% of attention", fontsize=8)
