"""Checks of raw values: every refusal names column, file and row, and says what to do."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from ctr_rec.errors import DataError
from ctr_rec.prepare.raw import ROW
from ctr_rec.schema.log import Feature, Kind, LogSchema


def refuse(frame: pl.DataFrame, bad: pl.Expr, column: str, where: str, expected: str, remedy: str) -> None:
    """Raises DataError for the first row in which `bad` holds. `frame` has the row number in `_row`."""
    found = frame.filter(bad)
    if found.height == 0:
        return
    first = found.row(int(found[ROW].arg_min() or 0), named=True)
    raise DataError(
        f"column {column!r} of {where}, row {first[ROW]}: expected {expected}, got {first[column]!r} "
        f"({found.height} such rows in this part of the data); {remedy}"
    )


def check_events(events: pl.DataFrame, schema: LogSchema, log: str) -> None:
    """Refuses null ids, times and actions, labels outside {0, 1}, and event features that cannot be stored."""
    where = f"events of {log}"
    for column in ("user_id", "item_id", "time", "action", "impression"):
        refuse(events, pl.col(column).is_null(), column, where, "a value", "drop such rows or fill them in build.py")
    names = ", ".join(f"{code}={name}" for code, name in enumerate(schema.actions))
    if events.schema["action"] == pl.String:
        unknown = ~pl.col("action").is_in(list(schema.actions))
    else:
        unknown = ~pl.col("action").is_between(0, len(schema.actions) - 1)
    refuse(events, unknown, "action", where, f"one of {names}", "add it to `actions` in schema.py or map it")
    for name in schema.labels:
        column = f"label_{name}"
        outside = pl.col("impression") & ~pl.col(column).is_in([0.0, 1.0]).fill_null(False)
        refuse(
            events,
            outside,
            column,
            where,
            "0 or 1 for an impression",
            "map the label in build.py, or set impression to false where it is unknown",
        )
    check_features(events, [f for f in schema.features if f.side.value == "event"], where)


def check_features(frame: pl.DataFrame, features: Iterable[Feature], where: str) -> None:
    """Refuses null categories, numbers that are null (unless optional), NaN or infinite, wrong lengths of vectors."""
    for f in features:
        value = pl.col(f.name)
        if f.kind is Kind.CATEGORY:
            remedy = "fill it in build.py, or declare the feature CATEGORIES, where absent is an empty list"
            refuse(frame, value.is_null(), f.name, where, "exactly one id", remedy)
        elif f.kind is Kind.CATEGORIES:
            inside = value.list.eval(pl.element().is_null()).list.any().fill_null(False)
            refuse(frame, inside, f.name, where, "a list without nulls", "drop the nulls inside the list in build.py")
        elif f.kind is Kind.NUMBER:
            absent = pl.lit(f.optional) & value.is_null()
            bad = (value.is_null() | ~value.is_finite()) & ~absent
            remedy = (
                "make it null in build.py"
                if f.optional
                else "declare it optional where kinds of event have none, or fill it in build.py, for example with "
                "fill_nan and a second feature that says it was missing"
            )
            refuse(frame, bad, f.name, where, "a finite number", remedy)
            if f.log1p:
                remedy = "declare the feature without log1p, or shift it in build.py"
                refuse(frame, value < 0, f.name, where, "a number of at least 0, since log1p is asked for", remedy)
        elif f.kind is Kind.VECTOR:
            wrong = value.list.len() != f.dim
            remedy = "write every vector with the declared dim, and null where there is none"
            refuse(frame, wrong, f.name, where, f"{f.dim} numbers", remedy)
            bad = value.list.eval(pl.element().is_null() | ~pl.element().is_finite()).list.any()
            refuse(frame, bad, f.name, where, "finite numbers", "mend or drop the vector in build.py")


def check_unique(frame: pl.DataFrame, key: str, where: str) -> None:
    """Refuses null and repeated keys of users or items."""
    refuse(frame, pl.col(key).is_null(), key, where, "a value", "drop such rows in build.py")
    double = pl.col(key).is_duplicated()
    refuse(frame, double, key, where, "one row per id", "keep one row of each in build.py (unique, keep='first')")
