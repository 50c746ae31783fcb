"""A stage: a stretch of training with one set of trainable parameters and one loss. Data, not code in the loop."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Restart:
    """Tables that begin again, values and optimizer state: those of at least `min_rows` rows.

    fresh: None brings back what the run began with; a number draws new initial values, others for each number.
    """

    min_rows: int
    fresh: int | None = None


@dataclass(frozen=True)
class Stage:
    """epochs: passes over the training range in this stage; the reader's shuffle counts epochs over the whole run.

    restart: tables that begin again on entry. Never of a first stage, whose tables have just begun.
    """

    name: str
    epochs: int
    restart: Restart | None = None
