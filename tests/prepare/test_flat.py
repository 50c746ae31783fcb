"""The flat reader: one meaning of missing, one text of an id, times, labels, lists, attributes."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from ctr_rec.errors import DataError
from ctr_rec.prepare.flat import FlatColumns, cell_number, cell_text, cell_time, late_shares, read_flat, scan_flat
from ctr_rec.schema.log import Feature, Kind, LogSchema, Side, Split, Vocabulary

COLUMNS = FlatColumns(
    file="log.csv",
    separator=",",
    user="who",
    item="what",
    time="when",
    label="ok",
    positive=("yes",),
    negative=("no",),
    features={"size": "how big"},
    lists={"tags": "|"},
)
SCHEMA = LogSchema(
    name="flat",
    actions=("no", "yes", "unknown"),
    labels=("ok",),
    features=(
        Feature(name="size", kind=Kind.NUMBER, side=Side.ITEM),
        Feature(name="size_missing", kind=Kind.CATEGORY, side=Side.ITEM, table="size_missing"),
        Feature(name="tags", kind=Kind.CATEGORIES, side=Side.EVENT, table="tags"),
        Feature(name="land", kind=Kind.CATEGORIES, side=Side.USER, table="land"),
    ),
    vocabularies=(Vocabulary(table="size_missing"), Vocabulary(table="tags"), Vocabulary(table="land")),
)
SPLIT = Split(train_end=100, valid_end=200)
TEXT = """who,what,when,ok,how big,tags,land
a,7,10,YES,,x|y,
a,7.0,11,no,2.5,,de
b, 8,12,maybe,NA,y,NA
,8,13,yes,1,y,
b,8,,yes,1,y,
b,8,9,no,NA,"[x| z]",fr
"""


def read(path: Path, text: str = TEXT, columns: FlatColumns = COLUMNS) -> tuple[list[dict], list[dict], list[dict]]:
    (path / "log.csv").write_text(text)
    raw = read_flat(path / "log.csv", columns, SCHEMA, SPLIT)
    assert raw.users is not None
    assert raw.items is not None
    return tuple(f.collect().to_dicts() for f in (raw.events, raw.users, raw.items))  # pyright: ignore[reportReturnType]


def test_rows_without_user_item_or_time_are_left_out_and_the_rest_is_typed(tmp_path: Path) -> None:
    events, users, items = read(tmp_path)
    told = [(e["user_id"], e["item_id"], e["time"], e["action"], e["label_ok"], e["impression"]) for e in events]
    assert told == [
        ("a", "7", 10, "yes", 1, True),
        ("a", "7", 11, "no", 0, True),
        ("b", "8", 12, "unknown", None, False),
        ("b", "8", 9, "no", 0, True),
    ]
    assert [e["tags"] for e in events] == [["x", "y"], [], ["y"], ["x", "z"]]
    assert users == [{"user_id": "a", "land": ["de"]}, {"user_id": "b", "land": ["fr"]}]
    assert items == [
        {"item_id": "7", "size": 2.5, "size_missing": "there"},
        {"item_id": "8", "size": 0.0, "size_missing": "missing"},
    ]


def test_the_earliest_value_speaks_for_an_item(tmp_path: Path) -> None:
    text = "who,what,when,ok,how big,tags,land\na,7,10,no,5,,\na,7,3,no,4,,\na,7,1,no,,,\n"
    assert read(tmp_path, text)[2][0]["size"] == 4.0


def test_a_value_that_comes_after_training_is_unknown(tmp_path: Path) -> None:
    """Item 7 is seen in training and filled in later; 8 is new in test, and known from its first event on."""
    text = "who,what,when,ok,how big,tags,land\na,7,10,no,,,\nb,7,101,yes,5,,\nb,8,150,no,6,,fr\nc,8,160,no,7,,\n"
    events, users, items = read(tmp_path, text)
    assert len(events) == 4
    assert items == [
        {"item_id": "7", "size": 0.0, "size_missing": "missing"},
        {"item_id": "8", "size": 6.0, "size_missing": "there"},
    ]
    assert [(u["user_id"], u["land"]) for u in users] == [("a", []), ("b", []), ("c", [])]
    assert late_shares(tmp_path / "log.csv", COLUMNS, SCHEMA, SPLIT) == {"size": 0.5, "land": 1.0}
    later = read_flat(tmp_path, COLUMNS, SCHEMA, Split(train_end=101, valid_end=200)).items
    assert later is not None
    assert later.collect()["size"].to_list() == [5.0, 6.0]


def test_a_folder_a_threshold_and_an_action_column(tmp_path: Path) -> None:
    text = "who,what,when,ok,how big,tags,land,verb,req\na,1,5,3,1,,,no,q\na,2,6,4.5,1,,,,q\na,3,7,?,1,,,yes,q\n"
    columns = COLUMNS.model_copy(update={"at_least": 4.0, "action": "verb", "request": "req"})
    (tmp_path / "log.csv").write_text(text)
    events = read_flat(tmp_path, columns, SCHEMA, SPLIT).events.collect().to_dicts()
    assert [(e["label_ok"], e["action"], e["request"]) for e in events] == [
        (0, "no", "q"),
        (1, "unknown", "q"),
        (None, "yes", "q"),
    ]


def test_parquet_types_and_lists(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "who": [1.0, 2.0],
            "what": ["x", "y"],
            "when": [datetime(1970, 1, 1, 0, 1), datetime(1970, 1, 1, 0, 2)],
            "ok": [True, False],
            "how big": [1, None],
            "tags": [["p", None], None],
            "land": [None, "de"],
        }
    )
    frame.write_parquet(tmp_path / "log.parquet")
    columns = COLUMNS.model_copy(
        update={"separator": None, "positive": ("true",), "negative": ("false",), "time_divisor": 10**6, "lists": {}}
    )
    raw = read_flat(tmp_path / "log.parquet", columns, SCHEMA, SPLIT)
    events = raw.events.collect().to_dicts()
    assert [(e["user_id"], e["time"], e["label_ok"], e["tags"]) for e in events] == [
        ("1", 60, 1, ["p"]),
        ("2", 120, 0, []),
    ]


def test_a_missing_column_or_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(TEXT.replace("how big", "size"))
    with pytest.raises(DataError, match=r"log\.csv: column 'how big' is missing; it has who, what") as caught:
        read_flat(tmp_path / "log.csv", COLUMNS, SCHEMA, SPLIT)
    assert "build.py" in str(caught.value)
    with pytest.raises(DataError, match="no such file"):
        scan_flat(tmp_path / "none.csv", ",")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(DataError, match="the file is empty"):
        scan_flat(tmp_path / "empty.csv", ",")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(DataError, match="is it a whole file"):
        read_flat(tmp_path / "x.parquet", COLUMNS.model_copy(update={"separator": None}), SCHEMA, SPLIT)


def cells(values: list, expression: pl.Expr) -> list:
    return pl.DataFrame({"c": values}, strict=False).select(expression.alias("x")).to_series().to_list()


def test_text_of_a_cell() -> None:
    assert cells([" 7", "7.0", "7.50", "NA", "", "None", "x "], cell_text("c", pl.String())) == [
        *("7", "7", "7.50", None, None, None, "x")
    ]
    assert cells([7.0, 7.5, float("nan"), None], cell_text("c", pl.Float64())) == ["7", "7.5", None, None]
    assert cells([True, None], cell_text("c", pl.Boolean())) == ["true", None]


def test_number_of_a_cell() -> None:
    assert cells(["1.5", "x", "inf", " 2"], cell_number("c", pl.String(), False)) == [1.5, None, None, 2.0]
    assert cells(["1,5", "2"], cell_number("c", pl.String(), True)) == [1.5, 2.0]


@pytest.mark.parametrize(
    ("values", "kind", "pattern", "divisor", "expected"),
    [
        (["1650000000.0", "x"], pl.String(), None, 1, [1650000000, None]),
        ([1650000000123456789], pl.Int64(), None, 1000, [1650000000123456]),
        (["2020-01-01 00:00:01"], pl.String(), "%Y-%m-%d %H:%M:%S", 10**6, [1577836801]),
        (["2020-01-01T01:00:01+01:00"], pl.String(), "%Y-%m-%dT%H:%M:%S%#z", 10**6, [1577836801]),
        (["01.02.2020 00:00", "?"], pl.String(), "%d.%m.%Y %H:%M", 10**6, [1580515200, None]),
    ],
)
def test_time_of_a_cell(values: list, kind: pl.DataType, pattern: str | None, divisor: int, expected: list) -> None:
    assert cells(values, cell_time("c", kind, pattern, divisor)) == expected
