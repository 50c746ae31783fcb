"""Second pass, one partition at a time: requests, request times and the one order of a user's events."""

from __future__ import annotations

import numpy as np
import polars as pl

from ctr_rec.prepare.raw import ROW
from ctr_rec.schema.log import Split
from ctr_rec.schema.manifest import SPLITS


def arrange(events: pl.DataFrame, split: Split) -> pl.DataFrame:
    """Sorts by (user, time, request, item) and adds `request` (0, 1, ... in this partition) and `request_time`.

    Requests of one user are numbered by (request time, smallest item, raw request id). What remains tied (the same
    item twice in one request) is ordered by a mix of the row number, which no label order of the file shows through.
    Events whose request begins after `split.test_end` are left out.
    """
    events = events.with_columns(pl.Series("_tie", _mix(events[ROW].to_numpy())))
    # A request id may be missing (history from elsewhere): such events fall back to equal times.
    named = pl.col("request").is_not_null() if "request" in events.columns else pl.lit(False)
    name = pl.col("request") if "request" in events.columns else pl.lit(None, pl.String)
    key = ["user_id", "_name", "_at"]
    events = events.with_columns(
        name.alias("_name"), pl.when(named).then(None).otherwise(pl.col("time")).alias("_at")
    ).drop("request", strict=False)
    requests = (
        events.group_by(key)
        .agg(pl.col("time").min().alias("request_time"), pl.col("item_id").min().alias("_first_item"))
        .filter(split.number(pl.col("request_time")) < len(SPLITS))
        .sort(["user_id", "request_time", "_first_item", "_name"], nulls_last=True)
        .with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("request"))
        .drop("_first_item")
    )
    events = events.join(requests, on=key, how="inner", nulls_equal=True).drop("_name", "_at")
    return events.sort(["user_id", "time", "request", "item_id", "_tie"]).drop("_tie")


def _mix(rows: np.ndarray) -> np.ndarray:
    """SplitMix64 of the row number (Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        z = rows.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
