"""The raw log as a recipe hands it over, its columns checked against the schema and brought to one type each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from ctr_rec.errors import DataError, SchemaError
from ctr_rec.schema.log import Feature, Kind, LogSchema, Side

ROW = "_row"  # 1-based row of the raw frame, so that an error can point at it
RESERVED = {
    Side.EVENT: {"user", "user_id", "item_id", "time", "request_time", "request", "item", "impression", "action"},
    Side.USER: {"user", "user_id"},
    Side.ITEM: {"item_id", "first_time"},
}


@dataclass(frozen=True)
class RawLog:
    """What a recipe's `read(raw)` returns.

    events: `user_id`, `item_id` (integer or string), `time` (integer, in the schema's unit), optional `request`
        (integer or string), optional `impression` (boolean, default: every event), `action` (code or name),
        `label_<name>` (0 or 1; may be null where the event is no impression) and the event features.
    users: `user_id` and the user features, one row per user. None where the schema has no user feature.
    items: `item_id` and the item features, one row per item. None where the schema has no item feature.
    sources: files whose size and SHA-256 go into the manifest.
    beside: files copied into the prepared log as they are; no model reads them.
    """

    events: pl.LazyFrame
    users: pl.LazyFrame | None = None
    items: pl.LazyFrame | None = None
    sources: Sequence[Path] = field(default_factory=tuple)
    beside: Sequence[Path] = field(default_factory=tuple)

    def name(self) -> str:
        """The source files in words, for messages."""
        return ", ".join(p.name for p in self.sources) or "the raw log"


def check_names(schema: LogSchema) -> None:
    """Raises SchemaError where a feature would overwrite a column that the stored format needs itself."""
    for f in schema.features:
        counter_columns = {f"{c.name}_{part}" for c in schema.counters for part in ("count", "rate")}
        # Of every side: the manifest keeps mean and deviation of numbers and counters by name alone.
        taken = RESERVED[f.side] | counter_columns
        if f.name in taken or (f.side is Side.EVENT and f.name.startswith("label_")):
            raise SchemaError(
                f"schema {schema.name!r}: feature {f.name!r} has the name of a column that the stored format uses "
                f"itself in {f.side.value}s/; rename the feature and its raw column"
            )


def columns_of(frame: pl.LazyFrame, what: str, log: str) -> pl.Schema:
    """The frame's column types. Raises DataError where its files cannot be read at all."""
    try:
        return frame.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise unreadable(error, what, log) from error


def unreadable(error: Exception, what: str, log: str) -> DataError:
    """A DataError for files that are missing, truncated, or of another format."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DataError(
        f"{what} of {log}: cannot be read ({reason}); expected whole files in the layout of the recipe's README: "
        "fetch or copy them again"
    )


def canonical_events(raw: RawLog, schema: LogSchema) -> pl.LazyFrame:
    """Events with a row number and one type per column: ids as they are, categories as strings, labels as floats.

    Raises:
        SchemaError: a column is missing or has a type that its kind cannot come from.
    """
    log = raw.name()
    types = columns_of(raw.events, "events", log)
    needed = ["user_id", "item_id", "time", "action", *(f"label_{name}" for name in schema.labels)]
    _need(types, needed + [f.name for f in schema.of(Side.EVENT)], "events", log)
    out = [_id("user_id", types, "events", log), _id("item_id", types, "events", log)]
    if not types["time"].is_integer():
        raise _wrong_type("time", types["time"], f"an integer count of {schema.time_unit}", "events", log)
    out.append(pl.col("time").cast(pl.Int64))
    if "request" in types:
        _id("request", types, "events", log)
        out.append(pl.col("request").cast(pl.String))
    if "impression" in types:
        if types["impression"] != pl.Boolean:
            raise _wrong_type("impression", types["impression"], "a boolean", "events", log)
        out.append(pl.col("impression"))
    else:
        out.append(pl.lit(True).alias("impression"))
    out.append(_action(types, schema, log))
    for name in schema.labels:
        kind = types[f"label_{name}"]
        if not (kind.is_numeric() or kind == pl.Boolean):
            raise _wrong_type(f"label_{name}", kind, "0 and 1, or a boolean", "events", log)
        out.append(pl.col(f"label_{name}").cast(pl.Float64))
    out += [_feature(f, types[f.name], "events", log) for f in schema.of(Side.EVENT)]
    return raw.events.select(out).with_row_index(ROW, offset=1).with_columns(pl.col(ROW).cast(pl.Int64))


def canonical_side(frame: pl.LazyFrame | None, schema: LogSchema, side: Side, raw: RawLog) -> pl.LazyFrame | None:
    """Users or items with a row number and one type per column; None where the schema has no such feature."""
    features = schema.of(side)
    if not features:
        return None
    what, key = f"{side.value}s", f"{side.value}_id"
    if frame is None:
        raise SchemaError(
            f"schema {schema.name!r} has {side.value} features ({', '.join(f.name for f in features)}), but the "
            f"recipe's read() returns no {what}; return RawLog({what}=...) or remove the features"
        )
    types = columns_of(frame, what, raw.name())
    _need(types, [key, *(f.name for f in features)], what, raw.name())
    out = [_id(key, types, what, raw.name())]
    out += [_feature(f, types[f.name], what, raw.name()) for f in features]
    return frame.select(out).with_row_index(ROW, offset=1).with_columns(pl.col(ROW).cast(pl.Int64))


def _need(types: pl.Schema, names: list[str], what: str, log: str) -> None:
    missing = [n for n in names if n not in types]
    if missing:
        raise SchemaError(
            f"{what} of {log}: column {', '.join(map(repr, missing))} is missing; got {', '.join(types)}. Name or make "
            "it in the recipe's build.py, or take it out of its schema.py"
        )


def _wrong_type(column: str, got: pl.DataType, expected: str, what: str, log: str) -> SchemaError:
    return SchemaError(
        f"{what} of {log}: column {column!r} has type {got}, expected {expected}; cast it in the recipe's build.py"
    )


def _is_id(kind: pl.DataType) -> bool:
    return kind.is_integer() or kind in (pl.String, pl.Categorical, pl.Enum, pl.Boolean)


def _id(column: str, types: pl.Schema, what: str, log: str) -> pl.Expr:
    kind = types[column]
    if not _is_id(kind) or kind == pl.Boolean:
        raise _wrong_type(column, kind, "an integer or a string", what, log)
    return pl.col(column).cast(pl.Int64 if kind.is_integer() else pl.String)


def _action(types: pl.Schema, schema: LogSchema, log: str) -> pl.Expr:
    kind = types["action"]
    if kind.is_integer():
        return pl.col("action").cast(pl.Int64)
    if kind not in (pl.String, pl.Categorical, pl.Enum):
        raise _wrong_type("action", kind, f"a code or one of the names {', '.join(schema.actions)}", "events", log)
    return pl.col("action").cast(pl.String)


def _feature(f: Feature, kind: pl.DataType, what: str, log: str) -> pl.Expr:
    column = pl.col(f.name)
    inner = kind.inner if isinstance(kind, (pl.List, pl.Array)) else None
    inner_type = None if inner is None else pl.List(inner).inner
    if f.kind is Kind.CATEGORY and _is_id(kind):
        return column.cast(pl.String)
    if f.kind is Kind.CATEGORIES and inner_type is not None and _is_id(inner_type):  # pyright: ignore[reportArgumentType]
        return column.cast(pl.List(pl.String))
    if f.kind is Kind.NUMBER and (kind.is_numeric() or kind == pl.Boolean):
        return column.cast(pl.Float64)
    if f.kind is Kind.VECTOR and inner_type is not None and inner_type.is_numeric():
        return column.cast(pl.List(pl.Float32))
    if f.kind is Kind.TEXT and kind in (pl.String, pl.Categorical, pl.Enum):
        return column.cast(pl.String)
    expected = {
        Kind.CATEGORY: "an integer, a string or a boolean",
        Kind.CATEGORIES: "a list of integers or of strings",
        Kind.NUMBER: "a number",
        Kind.VECTOR: f"a list of {f.dim} numbers",
        Kind.TEXT: "a string",
    }[f.kind]
    raise _wrong_type(f.name, kind, f"{expected} for a feature of kind {f.kind.value}", what, log)
