"""Raw columns: names, types and what each kind may come from."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from ctr_rec.errors import DataError, SchemaError
from ctr_rec.prepare.raw import RawLog, canonical_events, canonical_side, check_names, columns_of
from ctr_rec.schema.log import Counter, Feature, Kind, Side
from tests.prepare.raws import SCHEMA, random_raw, simple_raw, simple_schema


def test_events_get_one_type_per_column_and_row_numbers_from_one() -> None:
    frame = canonical_events(random_raw(), SCHEMA).collect()
    assert frame["_row"].to_list()[:3] == [1, 2, 3]
    types = {"user_id": pl.String, "item_id": pl.Int64, "time": pl.Int64, "request": pl.String, "page": pl.String}
    types |= {"label_click": pl.Float64, "label_buy": pl.Float64, "dwell": pl.Float64, "words": pl.List(pl.String)}
    assert {n: frame.schema[n] for n in types} == types


def test_impression_is_every_event_by_default() -> None:
    assert canonical_events(simple_raw(), simple_schema()).collect()["impression"].all()


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        (Kind.CATEGORIES, ["a", "b"], "a list of integers or of strings"),
        (Kind.CATEGORIES, [[1.5], [2.5]], "a list of integers or of strings"),
        (Kind.CATEGORY, [[1], [2]], "an integer, a string or a boolean"),
        (Kind.TEXT, [1, 2], "a string"),
        (Kind.VECTOR, [["a"], ["b"]], "a list of 2 numbers"),
        (Kind.NUMBER, ["1", "2"], "a number"),
    ],
)
def test_a_wrong_type_names_column_and_kind(kind: Kind, values: list, words: str) -> None:
    table = "f" if kind in (Kind.CATEGORY, Kind.CATEGORIES) else None
    f = Feature(name="f", kind=kind, side=Side.ITEM, table=table, dim=2 if kind is Kind.VECTOR else None)
    raw = RawLog(events=simple_raw().events, items=pl.DataFrame({"item_id": [1, 2], "f": values}).lazy())
    with pytest.raises(SchemaError, match=r"items of the raw log: column 'f' has type") as caught:
        canonical_side(raw.items, simple_schema(f), Side.ITEM, raw)
    assert words in str(caught.value)


def test_a_side_without_features_is_not_read() -> None:
    assert canonical_side(None, simple_schema(), Side.ITEM, simple_raw()) is None


@pytest.mark.parametrize(("name", "side"), [("item_id", Side.ITEM), ("time", Side.EVENT), ("user", Side.USER)])
def test_names_of_the_stored_format_are_refused(name: str, side: Side) -> None:
    with pytest.raises(SchemaError, match=f"feature '{name}' has the name of a column") as caught:
        check_names(simple_schema(Feature(name=name, kind=Kind.NUMBER, side=side)))
    assert "rename" in str(caught.value)


def test_names_of_counters_and_labels_are_refused() -> None:
    for name, side in (("seen_count", Side.EVENT), ("label_x", Side.EVENT), ("seen_count", Side.ITEM)):
        feature = Feature(name=name, kind=Kind.NUMBER, side=side)
        counters = (Counter(name="seen", by="item", label="click"),)
        with pytest.raises(SchemaError, match=name):
            check_names(simple_schema(feature).model_copy(update={"counters": counters}))
    check_names(SCHEMA)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"users of x\.parquet: cannot be read"):
        columns_of(pl.scan_parquet(tmp_path / "x.parquet"), "users", "x.parquet")
