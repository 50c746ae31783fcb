"""A run scored on shortened input: each impression is given its newest visible events alone, whatever was trained.

Events are cut, not windows of the tower: what lies before the cut reaches the impression by no layer and no channel. A
channel that reads one kind of action keeps what of its kind is left among those events. Numbers that were counted over
the whole history when the log was prepared (running counters, profiles) are not events and stay as they are.
"""

from __future__ import annotations

from pydantic import ValidationError

from ctr_rec.batch.config import Alone, Batches, DataConfig, Packed, Pointwise
from ctr_rec.config import explain
from ctr_rec.errors import ConfigError
from ctr_rec.train.run import Run

IMPRESSIONS, TOKENS = 4096, 1 << 16
"""Of a batch in which packed users are scored one impression at a time: no more of either."""


def cut_run(run: Run, history: int) -> Run:
    """The run with batches that give each impression `history` events at most.

    Raises:
        ConfigError: less than one event, or a run that reads no history.
    """
    if history < 1:
        raise ConfigError(f"history: expected one event or more, got {history}")
    batches = _batches(run, history)
    try:
        data = DataConfig(**{**dict(run.data), "batches": batches})
    except ValidationError as error:
        raise explain(error, f"history {history}") from error
    return run.model_copy(update={"data": data})


def _batches(run: Run, history: int) -> Batches:
    filled = run.data.batches
    if isinstance(filled, Pointwise):
        return filled.model_copy(update={"history": history})
    if isinstance(filled, Packed) and 0 < run.tower.reach <= history:
        return filled  # what the cut takes away has no path to the score; whole users score the same, much faster
    return Alone(impressions=IMPRESSIONS, history=history, tokens=max(TOKENS, history + 1))
