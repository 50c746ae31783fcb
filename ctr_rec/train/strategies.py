"""Strategies: functions from a run to its list of stages. The trainer runs the list and knows none of them."""

from __future__ import annotations

from collections.abc import Callable

from ctr_rec.train.run import Run
from ctr_rec.train.stage import Stage


def joint(run: Run) -> list[Stage]:
    """Tables and dense weights train together on the same batches."""
    return [Stage(name="joint", epochs=run.train.epochs)]


STRATEGIES: dict[str, Callable[[Run], list[Stage]]] = {"joint": joint}


def stages(run: Run) -> list[Stage]:
    """The stages of a run."""
    return STRATEGIES[run.train.strategy](run)
