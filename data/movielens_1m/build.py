"""Reads MovieLens-1M in GroupLens' own layout: ratings.dat, users.dat, movies.dat (latin-1, fields parted by ::)."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ctr_rec.errors import DataError
from ctr_rec.prepare.raw import RawLog

ARTICLES = "The|A|An|Der|Die|Das|Le|La|Les|L'|Un|Une|El|Los|Las|Il|Lo|I|Gli|O|Os|Den|Det"
FILES = ("ratings.dat", "users.dat", "movies.dat")


def read(raw: Path) -> RawLog:
    """raw: the folder that holds the three files."""
    missing = [name for name in FILES if not (raw / name).is_file()]
    if missing:
        raise DataError(
            f"{raw}: expected {', '.join(FILES)} in GroupLens' layout, missing {', '.join(missing)}; unpack ml-1m.zip "
            "from the publisher there"
        )
    rating = pl.col("rating").cast(pl.Int64, strict=False)
    events = _ratings(raw / "ratings.dat").select(
        pl.col("user").cast(pl.Int64, strict=False).alias("user_id"),
        pl.col("film").cast(pl.Int64, strict=False).alias("item_id"),
        pl.col("time").cast(pl.Int64, strict=False),
        (rating - 1).alias("action"),
        (rating >= 4).alias("label_liked"),
    )
    users = _small(raw / "users.dat", ["user_id", "gender", "age", "occupation", "zip"])
    films = _small(raw / "movies.dat", ["item_id", "title", "genres"])
    return RawLog(
        events=events,
        users=users.select(pl.col("user_id").cast(pl.Int64), "gender", "age", "occupation").lazy(),
        items=films.select(
            pl.col("item_id").cast(pl.Int64),
            pl.col("item_id").alias("film"),
            pl.col("genres").str.split("|"),
            pl.col("title").str.extract(r"\((\d{4})\)\s*$").fill_null("unknown").alias("year"),
            "title",
        ).lazy(),
        sources=tuple(raw / name for name in FILES),
    )


def item_text(items: pl.DataFrame) -> pl.Series:
    """One sentence per film for a text encoder: "The Matrix, a film of 1999. Genres: Action, Sci-Fi, Thriller."

    The publisher writes "Matrix, The (1999)"; the article moves to the front, in titles in parentheses too.
    """
    title = pl.col("title").str.replace(r"\s*\(\d{4}\)\s*$", "")
    title = title.str.replace_all(rf"([^()]+), ({ARTICLES})(\s*[()]|\s*$)", "$2 $1$3").str.replace_all("' ", "'")
    year = pl.when(pl.col("year") == "unknown").then(pl.lit("")).otherwise(pl.format(" of {}", "year"))
    genres = pl.col("genres").list.join(", ")
    return items.select(text=pl.format("{}, a film{}. Genres: {}.", title, year, genres)).to_series()


def _ratings(path: Path) -> pl.LazyFrame:
    # Two-byte separators are beyond the CSV reader, so a line is read whole and split afterwards.
    lines = pl.scan_csv(path, has_header=False, separator="\x1f", quote_char=None, new_columns=["line"])
    parts = pl.col("line").str.split_exact("::", 3).struct.rename_fields(["user", "film", "rating", "time"])
    return lines.select(parts.alias("parts")).unnest("parts")


def _small(path: Path, names: list[str]) -> pl.DataFrame:
    rows = [line.split("::") for line in path.read_bytes().decode("latin-1").splitlines() if line]
    for number, row in enumerate(rows, start=1):
        if len(row) != len(names):
            raise DataError(
                f"{path.name}, line {number}: expected {len(names)} fields parted by ::, got {len(row)}; fetch the "
                "file again"
            )
    return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row")
