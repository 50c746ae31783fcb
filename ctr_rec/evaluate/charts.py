"""The drawings of a report, each an SVG element as text. Text stays text, so that it takes the page's font."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from ctr_rec.metrics.probability import ReliabilityBin

BLUE, ORANGE, GREEN, GREY, INK = "#2f6db3", "#d9822b", "#2d8659", "#c9d1d9", "#24292f"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ctr-rec",
    "font.family": "sans-serif",
    "font.size": 10.0,
    "axes.edgecolor": "#8c959f",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eaeef2",
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "text.color": INK,
    "xtick.color": "#57606a",
    "ytick.color": "#57606a",
}
Lines = Sequence[dict[str, Any]]
_BARE = 16


def curves(lines: Lines) -> str:
    """Loss, window AUC with validation AUC and GAUC, against steps. lines: as metrics.jsonl holds them."""
    train, valid = _of("train", lines), _of("valid", lines)

    def draw(loss: Axes, quality: Axes) -> None:
        _line(loss, train, "loss", "training", BLUE)
        _line(loss, valid, "logloss", "validation", ORANGE, marker="o")
        loss.set_title("Loss (nats)")
        _line(quality, train, "window_auc", "window AUC", BLUE)
        _line(quality, valid, "auc", "valid AUC", ORANGE, marker="o")
        _line(quality, valid, "gauc", "valid GAUC", GREEN, marker="s")
        quality.set_title("Quality")
        for axes in (loss, quality):
            axes.set_xlabel("step")
            _legend(axes)

    return _svg(draw, 2, (9.6, 3.1))


def throughput(lines: Lines) -> str:
    """Impressions per second over all ranks, and the share of time in which training waited for data."""
    train = _of("train", lines)

    def draw(speed: Axes, wait: Axes) -> None:
        _line(speed, train, "impressions_per_s", "", BLUE)
        speed.set_title("Impressions per second, all ranks")
        speed.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        speed.set_ylim(bottom=0)
        _line(wait, train, "data_wait_share", "", ORANGE)
        wait.set_title("Share of time waiting for data, slowest rank")
        wait.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        wait.set_ylim(0, max(0.1, wait.get_ylim()[1]))
        for axes in (speed, wait):
            axes.set_xlabel("step")

    return _svg(draw, 2, (9.6, 2.7))


def bars(buckets: Sequence[dict[str, Any]], overall: dict[str, Any]) -> str:
    """AUC and GAUC of each bucket as dots over the overall values, and the number of impressions as bars below.

    buckets: as metrics/<split>.json holds them.
    """
    names = [bucket["name"] for bucket in buckets]
    places = list(range(len(names)))

    def draw(quality: Axes, counts: Axes) -> None:
        for key, label, colour, shift in (("auc", "AUC", BLUE, -0.12), ("gauc", "GAUC", ORANGE, 0.12)):
            values = [_number(bucket["metrics"].get(key)) for bucket in buckets]
            quality.plot([p + shift for p in places], values, "o", color=colour, label=label, markersize=6)
            quality.axhline(_number(overall.get(key)), color=colour, linewidth=1, linestyle=":")
        quality.set_title("Quality (dotted: overall)")
        _legend(quality)
        bars_drawn = counts.bar(places, [bucket["impressions"] for bucket in buckets], color=GREY, width=0.7)
        counts.bar_label(bars_drawn, [f"{bucket['impressions']:,}" for bucket in buckets], fontsize=8, padding=2)
        counts.set_title("Impressions")
        counts.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        counts.margins(y=0.15)
        for axes in (quality, counts):
            axes.set_xticks(
                places, names, rotation=30 if len(names) > 6 else 0, ha="right" if len(names) > 6 else "center"
            )
            axes.set_xlim(-0.6, len(names) - 0.4)
            axes.grid(visible=False, axis="x")

    return _svg(draw, 2, (9.6, 2.9))


def days(lines: Lines) -> str:
    """AUC and GAUC of each period by the model of those before it, and below their impressions.

    lines: as days.jsonl holds them. The first period is left out of the quality: nothing was trained before it.
    """
    names = [line["day"] for line in lines]
    places = list(range(len(names)))
    # About twelve dates fit beside each other.
    shown = places[:: -(-len(places) // 12)] if places else []

    def draw(quality: Axes, counts: Axes) -> None:
        known = [line["scored_at_step"] > 0 for line in lines]
        for key, label, colour in (("auc", "AUC", BLUE), ("gauc", "GAUC", ORANGE)):
            values = [_number(line[key]) if k else math.nan for line, k in zip(lines, known, strict=True)]
            quality.plot(places, values, color=colour, label=label, marker="o", markersize=3, linewidth=1.5)
        quality.set_title("Each period by the model of those before it")
        _legend(quality)
        counts.bar(places, [line["impressions"] for line in lines], color=GREY, width=0.8)
        counts.set_title("Impressions")
        counts.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        for axes in (quality, counts):
            axes.set_xticks(shown, [names[p] for p in shown], rotation=30, ha="right")
            axes.set_xlim(-0.6, max(len(names), 1) - 0.4)

    return _svg(draw, 2, (9.6, 3.3))


def reliability(bins: Sequence[ReliabilityBin]) -> str:
    """Observed rate against predicted probability, equal numbers per bin; the diagonal is perfect calibration."""
    predicted, observed = [b.mean_prediction for b in bins], [b.mean_label for b in bins]
    # Two standard errors of a rate.
    error = [2 * math.sqrt(max(b.mean_label * (1 - b.mean_label), 1e-12) / b.count) for b in bins]

    def draw(axes: Axes, ratio: Axes) -> None:
        edge = [min(predicted + observed), max(predicted + observed)]
        axes.plot(edge, edge, color="#8c959f", linewidth=1, linestyle="--", label="perfect")
        axes.errorbar(predicted, observed, yerr=error, fmt="o-", color=BLUE, markersize=4, linewidth=1, label="model")
        axes.set_title("Reliability")
        axes.set_xlabel("mean prediction")
        axes.set_ylabel("observed rate")
        _legend(axes)
        ratio.axhline(0, color="#8c959f", linewidth=1, linestyle="--")
        ratio.errorbar(
            predicted,
            [p - o for p, o in zip(predicted, observed, strict=True)],
            yerr=error,
            fmt="o",
            color=ORANGE,
            markersize=4,
        )
        ratio.set_title("Prediction - observed rate (2 standard errors)")
        ratio.set_xlabel("mean prediction")

    return _svg(draw, 2, (9.6, 3.3))


def _svg(draw: Callable[..., None], panels: int, size: tuple[float, float]) -> str:
    with matplotlib.rc_context(_STYLE):
        # Fixed margins: a layout engine would draw everything a second time to measure it.
        figure = Figure(figsize=size)
        FigureCanvasSVG(figure)
        figure.subplots_adjust(left=0.065, right=0.985, bottom=0.62 / size[1], top=1 - 0.3 / size[1], wspace=0.2)
        draw(*figure.subplots(1, panels, squeeze=False)[0])
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def _of(kind: str, lines: Lines) -> list[dict[str, Any]]:
    return [line for line in lines if line.get("kind") == kind]


def _line(axes: Axes, lines: Lines, key: str, label: str, colour: str, marker: str = "") -> None:
    points = [(line["step"], _number(line.get(key))) for line in lines]
    points = [(step, value) for step, value in points if math.isfinite(value)]
    if not points:
        return
    # Few points make a line hard to see without marks.
    shown = marker or ("." if len(points) < _BARE else "")
    steps, values = zip(*points, strict=True)
    axes.plot(steps, values, color=colour, label=label, linewidth=1.5, marker=shown, markersize=5)


def _legend(axes: Axes) -> None:
    """Beside the title, where it hides no point."""
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        axes.legend(
            loc="lower right", bbox_to_anchor=(1.0, 0.97), ncols=len(handles), columnspacing=1.0, handlelength=1.4
        )


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
