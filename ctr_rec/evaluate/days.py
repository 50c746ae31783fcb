"""The days of a run that follows a log: days.jsonl, a line per period, and what is made of it.

A line is written when the period has been scored by the model of the periods before it, and completed when the run
has trained on it: figures of the first kind are of impressions that the model had not seen.

    day, after, to    the period: after < request time <= to, in the log's unit
    scored_at_step    of the model that scored it; 0 has not trained on anything yet
    impressions, ...  all metrics; null where undefined
    unseen_ids        share of the impressions with an id that this model has no row for
    stages            what then trained on it: name, steps, seconds (of the process that came to the stage's end)
    checkpoint        the model after the period, as `ctr-rec evaluate --checkpoint` names it
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from ctr_rec.evaluate import charts
from ctr_rec.evaluate.predictions import Predictions
from ctr_rec.files import write_atomically
from ctr_rec.metrics.mergeable import COUNT_KEYS, all_metrics
from ctr_rec.schema.periods import Period

_SHOWN = ("auc", "gauc", "logloss", "calibration")
Line = dict[str, Any]


@dataclass(frozen=True)
class Days:
    """The days of one run folder. For one rank alone."""

    run: Path

    @property
    def path(self) -> Path:
        return self.run / "days.jsonl"

    def lines(self) -> list[Line]:
        """Oldest first; none where the run follows no log."""
        return [json.loads(text) for text in self.path.read_text().splitlines()] if self.path.is_file() else []

    def scored(self, period: Period, step: int, predictions: Predictions, unseen: float) -> None:
        """A period was scored. A line of it, and of later ones, is of a run that was stopped: it goes."""
        metrics = all_metrics(predictions.label, predictions.logit, predictions.user)
        line: Line = {"day": period.name, "after": period.after, "to": period.to, "scored_at_step": step}
        line |= {k: _plain(k, float(v)) for k, v in metrics.items()}
        line |= {"unseen_ids": unseen}
        self._write([*(known for known in self.lines() if known["to"] < period.to), line])

    def trained(self, period: Period, stages: Sequence[Mapping[str, Any]], step: int) -> None:
        """The run has trained on a period that was scored."""
        more = {"stages": list(stages), "checkpoint": f"step-{step}"}
        lines = self.lines()
        self._write([{**line, **more} if line["to"] == period.to else line for line in lines])

    def draw(self) -> None:
        """Leaves days.svg beside the lines."""
        write_atomically(self.run / "days.svg", charts.days(self.lines()) + "\n")

    def table(self) -> Table:
        """What was measured, a row per period, 80 columns wide at most."""
        table = Table(title="each period by the model of those before it", box=SIMPLE_HEAD, padding=0)
        table.add_column("period")
        for header in ("impressions", *_SHOWN, "unseen ids", "steps"):
            table.add_column(header, justify="right")
        for line in self.lines():
            steps = sum(stage["steps"] for stage in line.get("stages", ()))
            values = ["-" if line[key] is None else f"{line[key]:.4f}" for key in _SHOWN]
            table.add_row(line["day"], f"{line['impressions']:,}", *values, f"{line['unseen_ids']:.1%}", f"{steps:,}")
        return table

    def _write(self, lines: Sequence[Line]) -> None:
        write_atomically(self.path, "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))


def _plain(key: str, value: float) -> float | int | None:
    return int(value) if key in COUNT_KEYS else value if math.isfinite(value) else None
