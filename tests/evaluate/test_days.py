from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from rich.console import Console

from ctr_rec.evaluate.days import Days
from ctr_rec.evaluate.predictions import Predictions
from ctr_rec.schema.periods import Period


def period(number: int) -> Period:
    return Period(name=f"day{number}", after=number, to=number + 1, fingerprint="f", impressions=4, events=9)


def predictions(label: list[float]) -> Predictions:
    n = np.arange(len(label))
    return Predictions(
        impression=n,
        user=n * 0,
        item=n,
        request_time=n,
        history_length=n,
        item_is_new=n > 9,
        label=np.array(label, np.float32),
        logit=np.linspace(-1, 1, len(label), dtype=np.float32),
    )


def test_a_line_is_written_completed_and_replaced(tmp_path: Path) -> None:
    days = Days(tmp_path)
    assert days.lines() == []
    for number in range(3):
        days.scored(period(number), 10 * number, predictions([0, 1, 0, 1]), 0.25)
        days.trained(period(number), [{"name": "joint", "steps": 10, "seconds": 1.5}], 10 * number + 10)
    first, second, _ = days.lines()
    assert (first["auc"], first["impressions"], first["unseen_ids"]) == (0.75, 4, 0.25)
    assert second["stages"] == [{"name": "joint", "steps": 10, "seconds": 1.5}]
    assert (second["scored_at_step"], second["checkpoint"]) == (10, "step-20")
    days.scored(period(1), 10, predictions([1, 1, 1, 1]), 0.0)
    again = days.lines()
    assert again[0] == first
    assert [line["day"] for line in again] == ["day0", "day1"], "later days are of a run that was stopped"
    assert again[1]["auc"] is None
    assert "stages" not in again[1]


def test_the_table_and_the_drawing_show_undefined_days(tmp_path: Path) -> None:
    days = Days(tmp_path)
    days.scored(period(0), 0, predictions([0, 1, 0, 1]), 0.25)
    days.scored(period(1), 10, predictions([1, 1, 1, 1]), 0.0)
    out = Console(file=io.StringIO(), width=80)
    out.print(days.table())
    shown = out.file.getvalue()  # type: ignore[attr-defined]
    assert "0.7500" in shown
    assert " - " in shown
    days.draw()
    assert "day1" in (tmp_path / "days.svg").read_text()
