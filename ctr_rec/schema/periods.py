"""A log that is followed: a folder of prepared logs, one per period, each grown from the one before.

    periods.json        which periods there are, in order, and with how much context they were cut
    <name>/             a prepared log whose training range is that period: its events, and before them of each user
                        who has any at most `context` events, which take no loss

Context is marked by its time: it lies at or before the split's `train_start`, so it is in no range of the split.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from ctr_rec.config import Config, from_json
from ctr_rec.errors import ConfigError, DataError
from ctr_rec.files import is_file, join_path, read_text

PERIODS = "periods.json"


class Period(Config):
    """One period: after < request time <= to, in the log's unit. name: its folder, the date on which it begins (UTC).

    The first one begins where the one before it ended, so what lies between (nothing that is scored) belongs to it.
    """

    name: str
    after: int
    to: int
    fingerprint: str
    impressions: int
    events: int


class Periods(Config):
    """Every period of a log that was cut. context: events of a user kept before each period at most.

    start, every: the grid, in the log's unit: period k ends just before start + (k + 1) * every.
    """

    format: int = 1
    context: int = Field(ge=1)
    start: int
    every: int = Field(ge=1)
    ticks_per_second: int
    periods: tuple[Period, ...]


def load_periods(folder: str | Path) -> Periods:
    """Raises DataError when the folder holds no periods, or their list cannot be read."""
    path = join_path(folder, PERIODS)
    if not is_file(path):
        raise DataError(
            f"{folder} has no {PERIODS}: expected the periods of a log; make them with `ctr-rec prepare ... --every 1d`"
        )
    try:
        found = from_json(Periods, read_text(path), path)
    except ConfigError as error:
        raise DataError(f"{error}; prepare the periods again") from error
    if not found.periods:
        raise DataError(f"{path}: expected at least one period, got none; prepare the periods again")
    return found


def period_log(folder: str | Path, period: Period) -> str:
    """The prepared log of a period."""
    return join_path(folder, period.name)
