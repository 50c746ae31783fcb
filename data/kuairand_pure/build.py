"""Reads KuaiRand-Pure in the publisher's layout, and the histories before the log where that file is there."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ctr_rec.errors import DataError
from ctr_rec.prepare.raw import RawLog

LOG, USERS, VIDEOS = "log_standard_4_22_to_5_08_pure.csv", "user_features_pure.csv", "video_features_basic_pure.csv"
HISTORIES = "histories_before_0425.parquet"  # optional
SIGNALS = {  # action name -> column, from the weakest to the strongest
    "click": "is_click",
    "long_view": "long_view",
    "profile": "is_profile_enter",
    "comment": "is_comment",
    "like": "is_like",
    "forward": "is_forward",
    "follow": "is_follow",
    "hate": "is_hate",
}
WATCHED_EDGES = [0.05, 0.25, 0.5, 0.75, 1.0]  # of the video's duration
DURATION_EDGES_S = [7.0, 15.0, 30.0, 60.0, 120.0, 300.0]
SECOND_MS = 1_000


def read(raw: Path) -> RawLog:
    """raw: the folder that holds the log, user and video files."""
    missing = [name for name in (LOG, USERS, VIDEOS) if not (raw / name).is_file()]
    if missing:
        raise DataError(
            f"{raw}: expected the files of KuaiRand-Pure's data folder, missing {', '.join(missing)}; unpack "
            "KuaiRand-Pure.tar.gz from the publisher there"
        )
    log = pl.scan_csv(raw / LOG)
    sources = [raw / LOG, raw / USERS, raw / VIDEOS]
    events = [_impressions(log)]
    if (raw / HISTORIES).is_file():
        sources.append(raw / HISTORIES)
        events.append(_histories(pl.scan_parquet(raw / HISTORIES), log))
    return RawLog(
        events=pl.concat(events, how="diagonal"),
        users=_users(raw / USERS),
        items=_videos(raw / VIDEOS),
        sources=tuple(sources),
    )


def _impressions(log: pl.LazyFrame) -> pl.LazyFrame:
    action = pl.lit("none")
    for name, column in SIGNALS.items():
        action = pl.when(pl.col(column) == 1).then(pl.lit(name)).otherwise(action)
    share = pl.col("play_time_ms") / pl.col("duration_ms")
    watched = pl.when(pl.col("duration_ms") > 0).then(_step(share, WATCHED_EDGES))
    return log.select(
        "user_id",
        pl.col("video_id").alias("item_id"),
        pl.col("time_ms").alias("time"),
        pl.lit(True).alias("impression"),
        action.alias("action"),
        pl.col("is_click").alias("label_is_click"),
        pl.col("long_view").alias("label_long_view"),
        pl.col("is_like").alias("label_like"),
        pl.concat_list(pl.col("tab").cast(pl.String)).alias("tab"),
        pl.concat_list(watched).list.drop_nulls().alias("watched"),
    )


def _step(value: pl.Expr, edges: list[float]) -> pl.Expr:
    """The largest edge that is not above the value, as text; "0" below them all, null where there is no value."""
    reached = pl.max_horizontal([pl.when(value >= edge).then(pl.lit(f"{edge:07.2f}")) for edge in edges])
    return pl.when(value.is_not_null()).then(reached.fill_null("0"))


def _histories(histories: pl.LazyFrame, log: pl.LazyFrame) -> pl.LazyFrame:
    """Exposures before the log, oldest first. Only the last one's time is known; the others get a second less each.

    Where the last time lies after the user's first impression (the log begins a little before its first day), the
    histories end a second before that impression. Liked and long-watched videos that are not among a user's last 50
    exposures are left out, since their place in the order is not known.
    """
    begins = log.group_by("user_id").agg(pl.col("time_ms").min().alias("begins"))
    ends = pl.min_horizontal("last_time_ms", pl.col("begins") - SECOND_MS)
    rows = histories.join(begins, on="user_id", how="left").with_columns(ends.alias("ends"))
    rows = rows.with_columns(
        pl.int_ranges(pl.col("watch_seq").list.len().cast(pl.Int64) - 1, -1, -1).alias("back"),
    ).filter(pl.col("watch_seq").list.len() > 0)
    rows = rows.explode("watch_seq", "back")
    liked, long_watched = (pl.col(c).list.contains(pl.col("watch_seq")) for c in ("like_seq", "long_watch_seq"))
    known = pl.when(long_watched).then(pl.lit("long_view")).otherwise(pl.lit("unknown"))
    return rows.select(
        "user_id",
        pl.col("watch_seq").alias("item_id"),
        (pl.col("ends") - pl.col("back") * SECOND_MS).alias("time"),
        pl.lit(False).alias("impression"),
        pl.when(liked).then(pl.lit("like")).otherwise(known).alias("action"),
        pl.lit([], pl.List(pl.String)).alias("tab"),
        pl.lit([], pl.List(pl.String)).alias("watched"),
    )


def _users(path: Path) -> pl.LazyFrame:
    # Every column but the id becomes a list of at most one category: some are empty for some users.
    columns = pl.scan_csv(path, infer_schema=False)
    names = [n for n in columns.collect_schema().names() if n != "user_id"]
    lists = [pl.concat_list(pl.col(n)).list.drop_nulls().alias(n) for n in names]
    return columns.select(pl.col("user_id").cast(pl.Int64), *lists)


def _videos(path: Path) -> pl.LazyFrame:
    seconds = _step(pl.col("video_duration").cast(pl.Float64) / SECOND_MS, DURATION_EDGES_S)
    return pl.scan_csv(path, infer_schema=False).select(
        pl.col("video_id").cast(pl.Int64).alias("item_id"),
        pl.col("video_id").alias("video"),
        pl.col("author_id").alias("author"),
        "video_type",
        "upload_type",
        pl.col("upload_dt").alias("upload_day"),
        pl.col("music_id").alias("music"),
        pl.col("tag").str.split(",").fill_null([]).alias("tags"),
        pl.concat_list(seconds).list.drop_nulls().alias("duration"),
    )
