"""Cuts a log to one period: its events, and before them the tail of context that its impressions need."""

from __future__ import annotations

import polars as pl

from ctr_rec.schema.log import Split


def kept_in_period(events: pl.DataFrame, split: Split, context: int, action_delay: int) -> pl.Series:
    """Which events a period's log keeps: bool [events], all False for a user without an event in the period.

    events: `user_id`, `time`, `request_time`, sorted by (user, time). split: with the period as its training range.
    context: events of a user kept from before the period, of those that the user's first request in it can see
    already; what is known later only is kept besides. So every impression of the period finds its newest `context`
    visible events, whatever the delay.
    """
    assert split.train_start is not None, "a period begins somewhere"
    fresh = pl.col("request_time") > split.train_start
    begins = pl.col("request_time").filter(fresh).min().over("user_id")
    seen = ~fresh & (pl.col("time") + action_delay < begins)
    # Counted from the newest back: 1 is the last one that the first request sees.
    back = seen.cast(pl.Int64).cum_sum(reverse=True).over("user_id")
    marked = events.select(kept=fresh | (begins.is_not_null() & (~seen | (back <= context))))
    return marked["kept"].fill_null(value=False)
