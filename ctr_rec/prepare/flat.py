"""Reads one flat table of events (CSV or Parquet) by a map of its columns: what `ctr-rec init` writes recipes for.

Every cell is taken as text first, so that 7, 7.0 and " 7" are one id and one meaning of "missing" holds everywhere.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl
from pydantic import Field

from ctr_rec.config import Config
from ctr_rec.errors import DataError
from ctr_rec.prepare.raw import RawLog
from ctr_rec.schema.log import Feature, Kind, LogSchema, Side, Split

MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None", "\\N", "?")
MISSING_SUFFIX = "_missing"  # of the category that says whether a number was there
THERE = "there"


class FlatColumns(Config):
    """Which column of the file is what.

    separator: of a CSV file. decimal_comma: numbers are written 3,5.
    time_format: strptime pattern; None for integers. time_divisor: integers are divided by it (nanoseconds: 1000).
    positive, negative: label texts in lower case; any other text is an event without a label. at_least: instead of
    texts, the label is 1 where the number in the label's column is at least this. Without a label an event is history
    only. action: column of the action's name; None makes it of the label.
    features: feature -> column, where the names differ. lists: feature -> separator of its text lists.
    """

    file: str
    separator: str | None = None
    decimal_comma: bool = False
    user: str
    item: str
    time: str
    time_format: str | None = None
    time_divisor: int = Field(default=1, ge=1)
    request: str | None = None
    label: str
    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    at_least: float | None = None
    action: str | None = None
    features: dict[str, str] = Field(default_factory=dict)
    lists: dict[str, str] = Field(default_factory=dict)


def scan_flat(path: Path, separator: str | None) -> pl.LazyFrame:
    """The table as it is: text cells for CSV, the file's own types for Parquet. Raises DataError if there is none."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected a CSV or Parquet table with one row per event")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty; expected a CSV or Parquet table with one row per event")
    if separator is None:
        return pl.scan_parquet(path)
    # Rows with more fields than the header are refused: an unquoted separator has moved all that follows it.
    return pl.scan_csv(path, separator=separator, infer_schema=False, encoding="utf8-lossy")


def read_flat(raw: Path, columns: FlatColumns, schema: LogSchema, split: Split) -> RawLog:
    """Reads the log. raw: the file, or a folder that holds `columns.file`.

    Rows without user, item or time are left out. A user's or item's attribute is its earliest value up to the end of
    the training range, or up to its first event where that comes later: a value that is filled in afterwards may tell
    what happened in between.

    Raises:
        DataError: no such file, or a column of the map is not in it.
    """
    table, flat, path = _table(raw, columns, schema)
    own = [pl.col(f"feature:{f.name}").alias(f.name) for f in schema.of(Side.EVENT)]
    return RawLog(
        events=table.select(*_fixed(columns, schema), *own),
        users=_attributes(table, schema, Side.USER, flat, split),
        items=_attributes(table, schema, Side.ITEM, flat, split),
        sources=(path,),
    )


def read_flat_events(raw: Path, columns: FlatColumns, schema: LogSchema) -> pl.LazyFrame:
    """The events of `read_flat` without their features, which need no split."""
    return _table(raw, columns, schema)[0].select(_fixed(columns, schema))


def late_shares(raw: Path, columns: FlatColumns, schema: LogSchema, split: Split) -> dict[str, float]:
    """Per attribute: of the users or items that ever have a value, the share that `read_flat` takes as missing.

    Only attributes with such a share are named.
    """
    table, flat, _ = _table(raw, columns, schema)
    found = {}
    for side in (Side.USER, Side.ITEM):
        features = [f for f in schema.of(side) if not flat.is_flag(f)]
        if not features:
            continue
        key, there = f"{side.value}_id", [_present(f).any().alias(f.name) for f in features]
        ever, known = (rows.group_by(key).agg(there).drop(key).sum() for rows in (table, _known(table, key, split)))
        all_of, in_time = pl.collect_all([ever, known])
        found |= {f.name: 1 - in_time[f.name][0] / max(all_of[f.name][0], 1) for f in features if all_of[f.name][0]}
    return {name: share for name, share in found.items() if share > 0}


def _fixed(columns: FlatColumns, schema: LogSchema) -> list[str]:
    request = [] if columns.request is None else ["request"]
    return ["user_id", "item_id", "time", *request, "impression", "action", *(f"label_{n}" for n in schema.labels)]


def _table(raw: Path, columns: FlatColumns, schema: LogSchema) -> tuple[pl.LazyFrame, _Flat, Path]:
    """One row per event: the columns of `_fixed`, and every feature of any side as `feature:<name>`."""
    path = raw / columns.file if raw.is_dir() else raw
    frame = scan_flat(path, columns.separator)
    try:
        types = frame.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path}: cannot be read ({str(error).splitlines()[0]}); is it a whole file?") from error
    flat = _Flat(columns, types, path)
    named = {"user_id": flat.text(columns.user), "item_id": flat.text(columns.item), "time": flat.time()}
    values = {f.name: flat.feature(f) for f in schema.features}
    label = flat.label()
    names = {f"label_{name}": label.alias(f"label_{name}") for name in schema.labels}
    if columns.request is not None:
        named["request"] = flat.text(columns.request)
    table = frame.select(
        *(e.alias(name) for name, e in named.items()),
        *names.values(),
        label.is_not_null().alias("impression"),
        flat.action(schema, label).alias("action"),
        *(e.alias(f"feature:{name}") for name, e in values.items()),
    ).filter(pl.all_horizontal(pl.col("user_id", "item_id", "time").is_not_null()))
    return table, flat, path


def _attributes(table: pl.LazyFrame, schema: LogSchema, side: Side, flat: _Flat, split: Split) -> pl.LazyFrame | None:
    features = schema.of(side)
    if not features:
        return None
    key = f"{side.value}_id"
    first = []
    for f in features:
        value = pl.col(f"feature:{f.name}")
        if flat.is_flag(f):
            seen = pl.when((value == THERE).any()).then(pl.lit(THERE)).otherwise(pl.lit("missing"))
            first.append(seen.alias(f.name))
            continue
        first.append(value.filter(_present(f)).first().alias(f.name))
    rows = _known(table, key, split).sort("time", maintain_order=True)
    frame = rows.group_by(key, maintain_order=True).agg(first).sort(key)
    return frame.with_columns(_fill(f) for f in features if not flat.is_flag(f))


def _present(f: Feature) -> pl.Expr:
    """Whether an attribute is there. A list is missing when it is empty."""
    value = pl.col(f"feature:{f.name}")
    return value.list.len() > 0 if f.kind in (Kind.CATEGORIES, Kind.VECTOR) else value.is_not_null()


def _known(table: pl.LazyFrame, key: str, split: Split) -> pl.LazyFrame:
    """The rows whose values count for the attributes of `key`: of the training range, or of its first instant later."""
    # By a join: the same as an aggregate inside a filter of each group crashes Polars 2.1 now and then.
    limits = table.group_by(key).agg(pl.col("time").min().clip(split.train_end).alias("limit"))
    return table.join(limits, on=key, how="inner").filter(pl.col("time") <= pl.col("limit")).drop("limit")


def _fill(f: Feature) -> pl.Expr:
    """What stands for a value that is nowhere: an empty list, the number 0 (beside its flag), or empty text."""
    value = pl.col(f.name)
    if f.kind is Kind.CATEGORIES:
        return value.fill_null([])
    if f.kind is Kind.NUMBER:
        return value.fill_null(0.0)
    return value.fill_null("") if f.kind is Kind.TEXT else value


class _Flat:
    """Expressions over the columns of one flat table."""

    def __init__(self, columns: FlatColumns, types: pl.Schema, path: Path) -> None:
        self._columns, self._types, self._path = columns, types, path

    def text(self, column: str) -> pl.Expr:
        return cell_text(column, self._type(column))

    def number(self, column: str) -> pl.Expr:
        return cell_number(column, self._type(column), self._columns.decimal_comma)

    def time(self) -> pl.Expr:
        c = self._columns
        return cell_time(c.time, self._type(c.time), c.time_format, c.time_divisor)

    def label(self) -> pl.Expr:
        """1, 0, or null where the event has no label."""
        c = self._columns
        if c.at_least is not None:
            return (self.number(c.label) >= c.at_least).cast(pl.Int8)
        text = self.text(c.label).str.to_lowercase()
        one, zero = text.is_in(list(c.positive)), text.is_in(list(c.negative))
        return pl.when(one).then(1).when(zero).then(0).otherwise(None).cast(pl.Int8)

    def action(self, schema: LogSchema, label: pl.Expr) -> pl.Expr:
        """The action's name; the last name of the schema where there is none."""
        unknown = pl.lit(schema.actions[-1])
        if self._columns.action is not None:
            return self.text(self._columns.action).fill_null(unknown)
        yes_no = pl.when(label == 1).then(pl.lit(schema.actions[1])).otherwise(pl.lit(schema.actions[0]))
        return pl.when(label.is_null()).then(unknown).otherwise(yes_no)

    def feature(self, f: Feature) -> pl.Expr:
        named = f.name.removesuffix(MISSING_SUFFIX) if self.is_flag(f) else f.name
        column = self._columns.features.get(named, named)
        if self.is_flag(f):
            return pl.when(self.number(column).is_null()).then(pl.lit("missing")).otherwise(pl.lit(THERE))
        if f.kind is Kind.NUMBER:
            number = self.number(column)
            return number if f.side is not Side.EVENT else number.fill_null(0.0)
        if f.kind is Kind.VECTOR:
            return pl.col(column).cast(pl.List(pl.Float32))  # of a fixed size in the file, and absent at times
        if f.kind is Kind.CATEGORIES:
            return self._list(column, self._columns.lists.get(f.name))
        return self.text(column)

    def is_flag(self, f: Feature) -> bool:
        """Whether the feature says if a number is there: a category named <number>_missing."""
        return f.kind is Kind.CATEGORY and f.name.endswith(MISSING_SUFFIX)

    def _list(self, column: str, separator: str | None) -> pl.Expr:
        kind = self._type(column)
        if isinstance(kind, (pl.List, pl.Array)):
            return pl.col(column).cast(pl.List(pl.String)).list.drop_nulls().fill_null([])
        text = self.text(column)
        if separator is None:
            return pl.concat_list(text).list.drop_nulls()
        bare = text.str.strip_chars("[](){} ").str.replace_all(r"['\"]", "")
        parts = bare.str.split(separator).list.eval(pl.element().str.strip_chars())
        return parts.list.eval(pl.element().filter(pl.element() != "")).fill_null([])

    def _type(self, column: str) -> pl.DataType:
        if column not in self._types:
            raise DataError(
                f"{self._path.name}: column {column!r} is missing; it has {', '.join(self._types)}. Name the right "
                "one in the recipe's build.py, or run ctr-rec init again"
            )
        return self._types[column]


def cell_text(column: str, kind: pl.DataType) -> pl.Expr:
    """Text of a cell: stripped, null where it says that it is missing, whole numbers without a decimal point."""
    value = pl.col(column)
    if kind == pl.Boolean or kind.is_integer():
        return value.cast(pl.String)
    if kind.is_float():
        whole = value.is_finite() & (value == value.round())
        plain = pl.when(whole).then(value).cast(pl.Int64, strict=False).cast(pl.String)
        return pl.when(value.is_nan()).then(None).otherwise(pl.coalesce(plain, value.cast(pl.String)))
    text = value.cast(pl.String).str.strip_chars()
    present = pl.when(~text.is_in(list(MISSING))).then(text)
    return present.str.replace(r"^(-?\d+)\.0+$", "$1")


def cell_number(column: str, kind: pl.DataType, decimal_comma: bool) -> pl.Expr:
    """Finite number of a cell, null where there is none."""
    if kind.is_numeric() or kind == pl.Boolean:
        number = pl.col(column).cast(pl.Float64)
    else:
        text = pl.col(column).cast(pl.String).str.strip_chars()
        text = text.str.replace(",", ".", literal=True) if decimal_comma else text
        number = text.cast(pl.Float64, strict=False)
    return pl.when(number.is_finite()).then(number)


def cell_time(column: str, kind: pl.DataType, time_format: str | None, divisor: int) -> pl.Expr:
    """Integer time: seconds or milliseconds of a date, or the file's own count divided by `divisor`."""
    if kind.is_temporal():
        return pl.col(column).cast(pl.Datetime("us")).dt.epoch("us") // divisor
    if time_format is not None:
        text = pl.col(column).cast(pl.String).str.strip_chars()
        moment = text.str.to_datetime(time_format, strict=False, time_unit="us")
        return moment.dt.epoch("us") // divisor
    if kind.is_numeric():
        return pl.col(column).cast(pl.Int64, strict=False) // divisor
    text = cell_text(column, kind)
    return text.str.replace(r"\.\d*$", "").cast(pl.Int64, strict=False) // divisor
