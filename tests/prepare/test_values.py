"""Refusals of values name column, row and remedy; good values pass."""

from __future__ import annotations

import polars as pl
import pytest

from ctr_rec.errors import DataError
from ctr_rec.prepare.raw import canonical_events
from ctr_rec.prepare.values import check_events, check_features, check_unique, refuse
from ctr_rec.schema.log import Feature, Kind, Side
from tests.prepare.raws import SCHEMA, random_raw


def test_good_events_pass() -> None:
    check_events(canonical_events(random_raw(), SCHEMA).collect(), SCHEMA, "log")


def test_refuse_names_the_first_row_whatever_the_order() -> None:
    frame = pl.DataFrame({"_row": [9, 4, 7], "x": [1, 2, 2]})
    with pytest.raises(DataError, match=r"column 'x' of here, row 4: expected one, got 2 \(2 such rows .*mend it"):
        refuse(frame, pl.col("x") == 2, "x", "here", "one", "mend it")
    refuse(frame, pl.col("x") == 3, "x", "here", "one", "mend it")


def feature(kind: Kind, **more: object) -> Feature:
    table = "f" if kind in (Kind.CATEGORY, Kind.CATEGORIES) else None
    return Feature.model_validate({"name": "f", "kind": kind, "side": Side.EVENT, "table": table, **more})


@pytest.mark.parametrize(
    ("f", "values", "words"),
    [
        (feature(Kind.CATEGORY), ["a", None], "exactly one id"),
        (feature(Kind.CATEGORIES), [["a"], ["b", None]], "a list without nulls"),
        (feature(Kind.NUMBER), [1.0, float("inf")], "a finite number"),
        (feature(Kind.NUMBER, log1p=True), [1.0, -0.5], "log1p"),
        (feature(Kind.VECTOR, dim=2), [[1.0, 2.0], [1.0]], "2 numbers"),
        (feature(Kind.VECTOR, dim=2), [None, [1.0, 2.0, 3.0]], "2 numbers"),
        (feature(Kind.VECTOR, dim=2), [None, []], "2 numbers"),
        (feature(Kind.VECTOR, dim=2), [[1.0, 2.0], [1.0, float("nan")]], "finite numbers"),
    ],
)
def test_each_kind_refuses_what_cannot_be_stored(f: Feature, values: list, words: str) -> None:
    frame = pl.DataFrame({"_row": [1, 2], "f": values})
    with pytest.raises(DataError, match="column 'f' of events, row 2") as caught:
        check_features(frame, [f], "events")
    assert words in str(caught.value)
    check_features(frame.head(1), [f], "events")


def test_absent_lists_vectors_and_texts_are_fine() -> None:
    frame = pl.DataFrame({"_row": [1, 2], "f": [["a"], None]})
    check_features(frame, [feature(Kind.CATEGORIES)], "events")
    vectors = pl.DataFrame({"_row": [1, 2], "f": [None, [1.0, 2.0]]})
    check_features(vectors, [feature(Kind.VECTOR, dim=2)], "events")
    check_features(pl.DataFrame({"_row": [1], "f": [None]}), [feature(Kind.TEXT)], "events")


def test_keys_are_there_once() -> None:
    check_unique(pl.DataFrame({"_row": [1, 2], "k": [5, 6]}), "k", "users")
    with pytest.raises(DataError, match="row 1: expected one row per id, got 5"):
        check_unique(pl.DataFrame({"_row": [1, 2], "k": [5, 5]}), "k", "users")
    with pytest.raises(DataError, match="row 2: expected a value, got None"):
        check_unique(pl.DataFrame({"_row": [1, 2], "k": [5, None]}), "k", "users")
