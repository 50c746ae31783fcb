"""What a family came to: table and sentences on the terminal and in scale.md, all figures in scale.json, a curve."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ctr_rec.files import write_atomically, write_json
from ctr_rec.scale.curve import CHANCE, Fit, Point, gain
from ctr_rec.scale.plot import draw_curves

_HEADINGS = ("size", "dense", "GFLOPs/60", "AUC", "GAUC", "seed sd", "dGAUC %")


@dataclass(frozen=True)
class Scaled:
    """points, fits: by family. baseline: None where gains are over chance. facts: what was run on what, plain data."""

    points: Mapping[str, Sequence[Point]]
    fits: Mapping[str, Sequence[Fit]]
    baseline: Point | None
    facts: Mapping[str, Any]

    @property
    def reference(self) -> float:
        return CHANCE if self.baseline is None else statistics.fmean(self.baseline.gauc)

    @property
    def against(self) -> str:
        return "chance" if self.baseline is None else self.baseline.name

    def sentences(self) -> list[str]:
        """One per family and axis, and what gains are counted from."""
        from_what = (
            f"Gains are over chance (GAUC {CHANCE}), since no --baseline was given; EST's are over an MLP."
            if self.baseline is None
            else f"Gains are over {self.baseline.name} (GAUC {self.reference:.5f}, mean of {len(self.baseline.gauc)})."
        )
        found = [f"{name} against {fit.axis.words}: {fit.sentence}" for name, fits in self.fits.items() for fit in fits]
        return [*found, from_what]

    def rows(self) -> list[tuple[str, ...]]:
        """The baseline first, then sizes in the order given."""
        first = [] if self.baseline is None else [self.baseline]
        return [self._row(point) for point in (*first, *(p for points in self.points.values() for p in points))]

    def _row(self, point: Point) -> tuple[str, ...]:
        several = len(point.gauc) > 1
        return (
            point.name,
            f"{point.dense:,}",
            f"{point.flops / 1e9:.4g}",
            f"{statistics.fmean(point.auc):.5f}",
            f"{statistics.fmean(point.gauc):.5f}",
            f"{statistics.stdev(point.gauc):.5f}" if several else "",
            "" if point is self.baseline else f"{gain(statistics.fmean(point.gauc), self.reference):+.3f}",
        )


def write(scaled: Scaled, folder: Path, console: Console) -> None:
    """Writes scale.json, scale.md, scale.png and scale.svg, each whole or not at all, and prints the table."""
    write_json(folder / "scale.json", _plain(scaled))
    write_atomically(folder / "scale.md", _markdown(scaled))
    for suffix in ("png", "svg"):
        draw_curves(scaled.fits, scaled.points, scaled.reference, scaled.against, folder / f"scale.{suffix}")
    table = Table(title=f"validation of {scaled.facts['log']}", box=SIMPLE_HEAD, padding=0)
    for heading in _HEADINGS:
        table.add_column(heading, justify="left" if heading == "size" else "right")
    for row in scaled.rows():
        table.add_row(*row)
    console.print(table)
    for sentence in scaled.sentences():
        console.print(sentence, highlight=False)
    console.print(f"figures and curve: {folder / 'scale'}.json, .md, .png, .svg", highlight=False, soft_wrap=True)


def _plain(scaled: Scaled) -> dict[str, Any]:
    families = {
        name: {
            "sizes": [asdict(point) for point in scaled.points[name]],
            "fits": [_plain_fit(fit) for fit in scaled.fits[name]],
        }
        for name in scaled.fits
    }
    baseline = None if scaled.baseline is None else asdict(scaled.baseline)
    return {**scaled.facts, "reference_gauc": scaled.reference, "baseline": baseline, "families": families}


def _plain_fit(fit: Fit) -> dict[str, Any]:
    """Bounds that are not finite are null."""
    found = asdict(fit)
    for name in ("seeds", "users", "both"):
        if found[name] is not None:
            found[name] = {key: value if math.isfinite(value) else None for key, value in found[name].items()}
    return {**found, "axis": fit.axis.letter, "unit": fit.axis.words}


def _markdown(scaled: Scaled) -> str:
    lines = [f"| {' | '.join(_HEADINGS)} |", f"|---|{'---:|' * (len(_HEADINGS) - 1)}"]
    lines += [f"| {' | '.join(row)} |" for row in scaled.rows()]
    lines += ["", *(f"- {sentence}" for sentence in scaled.sentences())]
    lines += ["", *(f"- {key}: {value}" for key, value in scaled.facts.items()), "", "![scale](scale.png)"]
    return "\n".join(lines) + "\n"
