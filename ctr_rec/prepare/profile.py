"""What a column looks like: the facts from which `ctr-rec init` guesses its role and kind."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ctr_rec.errors import DataError
from ctr_rec.prepare.flat import cell_number, cell_text, scan_flat

SAMPLED_ROWS = 200_000
SEPARATORS = ",;\t|"
LIST_SEPARATORS = ("|", ";", ",", " ")
TIME_FORMATS = (
    "%Y-%m-%dT%H:%M:%S%.f%#z",
    "%Y-%m-%d %H:%M:%S%.f%#z",
    "%Y-%m-%dT%H:%M:%S%.fZ",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%d %H:%M",
    "%Y/%m/%d %H:%M:%S",
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y %H:%M",
    "%d/%m/%Y %H:%M:%S",
    "%d/%m/%Y %H:%M",
    "%m/%d/%Y %H:%M:%S",
    "%m/%d/%Y %H:%M",
    "%Y-%m-%d",
    "%Y/%m/%d",
    "%d.%m.%Y",
)


@dataclass(frozen=True)
class Profile:
    """Facts of one column; shares are of the sampled values that are there.

    dtype: the file's own type. missing: share of all rows. distinct: in the sample. integer, number: share that
    parses. low, median, high: of the numbers. words, length: mean per text. parts: separator of a text list, or None.
    time_format: the strptime pattern that reads it, or None.
    """

    name: str
    dtype: pl.DataType
    missing: float
    distinct: int
    rows: int
    integer: float
    number: float
    low: float
    median: float
    high: float
    words: float
    length: float
    parts: str | None
    time_format: str | None
    values: tuple[str, ...]  # the distinct values by falling count, 50 at most

    @property
    def tokens(self) -> tuple[str, ...]:
        """Words of the name: `wasClicked` and `was_clicked` are (was, clicked)."""
        spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", self.name)
        return tuple(t.lower() for t in re.split(r"[^A-Za-z0-9]+", spaced) if t)

    @property
    def is_list(self) -> bool:
        return isinstance(self.dtype, (pl.List, pl.Array)) or self.parts is not None


@dataclass(frozen=True)
class Table:
    """The file, its sample, and a profile per column."""

    path: Path
    separator: str | None
    decimal_comma: bool
    sample: pl.DataFrame
    rows: int
    columns: dict[str, Profile]

    def scan(self) -> pl.LazyFrame:
        return scan_flat(self.path, self.separator)


def profile(path: Path) -> Table:
    """Reads a sample and the share of missing values. Raises DataError where the file is no table with rows."""
    separator = None if _is_parquet(path) else _sniff(path)
    frame = scan_flat(path, separator)
    try:
        sample = frame.head(SAMPLED_ROWS).collect()
        texts = {n: _as_text(n, t) for n, t in sample.schema.items()}
        counts = frame.select(
            pl.len().alias("_rows"), *(e.is_not_null().sum().alias(n) for n, e in texts.items())
        ).collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).splitlines()[0]
        if "more fields" in reason:
            columns = len(frame.collect_schema())
            raise DataError(
                f"{path}: some row has more fields than the header has columns ({columns}, parted by {separator!r}); "
                f"quote cells that hold the separator, or name the missing columns in the header"
            ) from error
        raise DataError(f"{path}: cannot be read ({reason}); is it a whole CSV or Parquet file?") from error
    rows = int(counts["_rows"][0])
    if rows == 0:
        raise DataError(f"{path}: the table has a header and no rows; expected one row per event")
    if len(sample.columns) < 4:
        raise DataError(
            f"{path}: expected at least four columns (user, item, time, label), got {', '.join(sample.columns)}; "
            "is the separator one of , ; tab |?"
        )
    comma = separator == ";" and _has_decimal_comma(sample)
    shown = {n: int(counts[n][0]) for n in sample.columns}
    columns = {n: _column(sample, n, 1 - shown[n] / rows, comma) for n in sample.columns}
    return Table(path, separator, comma, sample, rows, columns)


def _is_parquet(path: Path) -> bool:
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected a CSV or Parquet table with one row per event")
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def _sniff(path: Path) -> str:
    """The separator that parts most lines into the same, largest number of fields."""
    with path.open("r", encoding="utf-8", errors="replace") as file:
        lines = [line for _, line in zip(range(50), file, strict=False) if line.strip()]
    if not lines:
        raise DataError(f"{path}: the file is empty; expected a CSV or Parquet table with one row per event")
    return max(SEPARATORS, key=lambda s: _steady(lines, s))


def _steady(lines: list[str], separator: str) -> tuple[float, int]:
    # Quoted separators do not part fields.
    counts = [re.sub(r'"[^"]*"', "", line).count(separator) for line in lines]
    common = counts[0]
    return (sum(c == common for c in counts) / len(counts) if common else 0.0, common)


def _as_text(name: str, kind: pl.DataType) -> pl.Expr:
    nested = isinstance(kind, (pl.List, pl.Array, pl.Struct))
    return pl.col(name) if nested or kind.is_temporal() else cell_text(name, kind)


def _has_decimal_comma(sample: pl.DataFrame) -> bool:
    strings = [c for c, t in sample.schema.items() if t == pl.String]
    return any(_float(sample[c].drop_nulls().str.contains(r"^-?\d+,\d+$").mean()) > 0.5 for c in strings)


def _column(sample: pl.DataFrame, name: str, missing: float, comma: bool) -> Profile:
    kind = sample.schema[name]
    if isinstance(kind, (pl.List, pl.Array, pl.Struct)):
        return Profile(name, kind, missing, 0, sample.height, 0, 0, 0, 0, 0, 0, 0, None, None, ())
    there = sample.select(_as_text(name, kind).alias("v")).drop_nulls()["v"].cast(pl.String)
    if kind.is_temporal():
        distinct = there.n_unique()
        return Profile(name, kind, missing, distinct, sample.height, 0, 0, 0, 0, 0, 0, 0, None, "temporal", ())
    number = sample.select(cell_number(name, kind, comma).alias("v")).drop_nulls()["v"]
    whole = float((number == number.round()).sum()) / max(len(there), 1)
    top = there.value_counts(sort=True, name="n").sort(["n", there.name], descending=[True, False]).head(50)
    return Profile(
        name=name,
        dtype=kind,
        missing=missing,
        distinct=there.n_unique(),
        rows=sample.height,
        integer=whole,
        number=len(number) / max(len(there), 1),
        low=_float(number.min()),
        median=_float(number.median()),
        high=_float(number.max()),
        words=_float(there.str.count_matches(r"\S+").mean()),
        length=_float(there.str.len_chars().mean()),
        parts=None if len(number) > 0.5 * len(there) else _list_separator(there),
        time_format=None if len(number) > 0.5 * len(there) else _time_format(there),
        values=tuple(top[there.name].to_list()),
    )


def _float(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0


def _list_separator(texts: pl.Series) -> str | None:
    """The separator of a text list: in many values, with parts that are short and come back in other values."""
    if len(texts) == 0:
        return None
    bracketed = _float(texts.str.contains(r"^\s*[\[({].*[\])}]\s*$").mean()) > 0.8
    for separator in LIST_SEPARATORS:
        holds = _float(texts.str.contains(separator, literal=True).mean())
        if holds < (0.02 if bracketed else 0.1):
            continue
        parts = texts.unique().str.strip_chars("[](){} ").str.split(separator).explode()
        parts = parts.str.strip_chars(" '\"")
        short = _float(parts.str.count_matches(r"\S+").mean()) <= 2
        repeated = parts.n_unique() < 0.5 * max(len(parts), 1) and parts.n_unique() <= texts.n_unique()
        # Blanks part prose as well; a list of bare words is only believed inside brackets or when its words are few.
        if short and (repeated or bracketed) and (separator != " " or parts.n_unique() <= 100):
            return separator
    return "," if bracketed else None


def _time_format(texts: pl.Series) -> str | None:
    some = texts.head(2_000)
    if len(some) == 0 or _float(some.str.contains(r"\d{2,4}[-/.]\d{1,2}[-/.]\d{1,4}").mean()) < 0.9:
        return None
    for pattern in TIME_FORMATS:
        try:
            parsed = some.str.to_datetime(pattern, strict=False, time_unit="us")
        except pl.exceptions.PolarsError:
            continue
        if parsed.null_count() <= 0.05 * len(some):
            return pattern
    return None
