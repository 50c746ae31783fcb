"""Facts of columns: separators, lists, dates, decimal commas, missing values."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from ctr_rec.errors import DataError
from ctr_rec.prepare.profile import profile
from tests.prepare.logs import write_shop


def test_a_semicolon_file_with_decimal_commas(tmp_path: Path) -> None:
    table = profile(write_shop(tmp_path / "shop.csv"))
    assert (table.separator, table.decimal_comma, table.rows) == (";", True, 1500)
    price = table.columns["price"]
    assert price.number == 1.0
    assert price.integer < 0.1
    assert table.columns["tags"].parts == "|"
    assert table.columns["land"].parts is None
    assert 0.2 < table.columns["channel"].missing < 0.45
    assert table.columns["always"].distinct == 1
    assert table.columns["Customer No"].tokens == ("customer", "no")


@pytest.mark.parametrize("separator", [",", "\t", "|", ";"])
def test_each_separator_is_found_past_quoted_ones(tmp_path: Path, separator: str) -> None:
    row = separator.join(["a", f'"x{separator}y"', "3", "b"])
    (tmp_path / "f.csv").write_text("\n".join([separator.join("abcd"), row, row]) + "\n")
    table = profile(tmp_path / "f.csv")
    assert list(table.columns) == ["a", "b", "c", "d"]
    assert table.columns["b"].values == (f"x{separator}y",)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("2020-01-31 10:20:30", "%Y-%m-%d %H:%M:%S%.f"),
        ("2020-01-31T10:20:30.5", "%Y-%m-%dT%H:%M:%S%.f"),
        ("2020-01-31T10:20:30Z", "%Y-%m-%dT%H:%M:%S%.f%#z"),
        ("2020-01-31T10:20:30+02:00", "%Y-%m-%dT%H:%M:%S%.f%#z"),
        ("31.01.2020 10:20", "%d.%m.%Y %H:%M"),
        ("31/01/2020 10:20", "%d/%m/%Y %H:%M"),
        ("01/31/2020 10:20", "%m/%d/%Y %H:%M"),
        ("2020-01-31", "%Y-%m-%d"),
        ("hello", None),
        ("10-20", None),
    ],
)
def test_dates(tmp_path: Path, text: str, pattern: str | None) -> None:
    (tmp_path / "f.csv").write_text(f"a,b,c,d\n1,2,3,{text}\n")
    assert profile(tmp_path / "f.csv").columns["d"].time_format == pattern


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        (["a|b", "b|c", "a|c", "a|b|c"] * 5, "|"),
        (["['a', 'b']", "['b']", "[]", "['c']"] * 5, ","),
        (["the quick brown fox", "jumps over", "a lazy dog", "every day"] * 5, None),
        (["Berlin, Germany is a big town", "Paris, France is one too"] * 5, None),
        (["1", "2", "3", "4"], None),
    ],
)
def test_text_lists_are_told_from_prose(tmp_path: Path, values: list[str], parts: str | None) -> None:
    pl.DataFrame({"a": values, "b": 1, "c": 2, "d": 3}).write_parquet(tmp_path / "f.parquet")
    assert profile(tmp_path / "f.parquet").columns["a"].parts == parts


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file is empty"),
        ("a,b,c,d\n", "a header and no rows"),
        ("a,b\n1,2\n", "expected at least four columns"),
    ],
)
def test_what_is_no_log_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "f.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        profile(tmp_path / "f.csv")
    with pytest.raises(DataError, match="no such file"):
        profile(tmp_path / "none.csv")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(DataError, match="is it a whole CSV or Parquet file"):
        profile(tmp_path / "x.parquet")


def test_a_row_with_more_fields_than_the_header_is_refused(tmp_path: Path) -> None:
    rows = [f"{k % 7},{k % 11},{1600000000 + k},{k % 2}" for k in range(60)]
    (tmp_path / "f.csv").write_text("\n".join(["user,item,time,label", *rows, "3,red, high shoe,1600000099,1"]) + "\n")
    with pytest.raises(DataError, match=r"more fields than the header has columns \(4, parted by ','\); quote cells"):
        profile(tmp_path / "f.csv")
