"""Joins a file of frozen item vectors to a raw log, as one more item feature: `content`.

Vectors get length 1; an item that the file has no vector for gets zeros, which no vector of length 1 is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from ctr_rec.errors import ConfigError, DataError, SchemaError
from ctr_rec.prepare.fingerprint import source_file
from ctr_rec.prepare.raw import RawLog, columns_of, unreadable
from ctr_rec.schema.content import CONTENT, ITEM_ID, VECTOR, ContentInfo, info_path, load_info
from ctr_rec.schema.log import TICKS_PER_SECOND, Feature, Kind, LogSchema, Side, Split
from ctr_rec.schema.manifest import ContentSource


@dataclass(frozen=True)
class Content:
    """What `prepare` is asked to join. force: also vectors that were learnt from the validation or test range."""

    file: Path
    force: bool = False


def wanted_content(file: Path | None, force: bool) -> Content | None:
    """What the options of `prepare` ask for. Raises ConfigError where one would do nothing."""
    if file is None and force:
        raise ConfigError("prepare --force belongs to --content FILE; add that, or remove it")
    return None if file is None else Content(file, force)


@dataclass(frozen=True)
class Joined:
    """Raw log and schema with the new feature, what the manifest says of it, and what is odd about it."""

    log: RawLog
    schema: LogSchema
    source: ContentSource
    notes: tuple[str, ...]


def join_content(content: Content, log: RawLog, schema: LogSchema, split: Split) -> Joined:
    """The raw log with a vector per item.

    Raises:
        DataError: the file is no file of vectors, shares no item with the log, or was learnt from times that the split
        scores. SchemaError: the schema has a feature of that name. ConfigError: the JSON beside the file is another.
    """
    if any(f.name == CONTENT for f in schema.features):
        raise SchemaError(
            f"schema {schema.name!r} has a feature {CONTENT!r} of its own, the name that --content needs; rename it, "
            "or prepare without --content"
        )
    info = load_info(content.file)
    notes = _check_times(content, info, schema, split)
    vectors, dim = read_vectors(content.file)
    items = _items(log)
    kind = columns_of(items, "items", log.name())[ITEM_ID]
    key = pl.Int64 if kind.is_integer() and vectors.schema[ITEM_ID].is_integer() else pl.String
    vectors = vectors.select(pl.col(ITEM_ID).cast(key).alias("_key"), pl.col(VECTOR).alias(CONTENT))
    keyed = items.with_columns(pl.col(ITEM_ID).cast(key).alias("_key"))
    covered, of = _coverage(keyed, vectors, content.file, log)
    joined = keyed.join(vectors.lazy(), on="_key", how="left", maintain_order="left").drop("_key")
    if covered < of:
        notes.append(f"{content.file.name} has no vector for {of - covered:,} of {of:,} items; theirs are zeros")
    feature = Feature(name=CONTENT, kind=Kind.VECTOR, side=Side.ITEM, dim=dim)
    beside = [p for p in (content.file, info_path(content.file)) if p.is_file()]
    return Joined(
        log=RawLog(log.events, log.users, joined, sources=(*log.sources, *beside), beside=log.beside),
        schema=schema.model_copy(update={"features": (*schema.features, feature)}),
        source=ContentSource(file=source_file(content.file), info=info, covered=covered, items=of),
        notes=tuple(notes),
    )


def read_vectors(file: Path) -> tuple[pl.DataFrame, int]:
    """(item_id, vector), each vector a list of float32 at length 1 (zeros stay zeros), and how many numbers it has.

    Raises:
        DataError: no Parquet file, other columns, an id twice, or vectors that are ragged or not finite.
    """
    try:
        frame = pl.read_parquet(file, columns=[ITEM_ID, VECTOR])
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(
            f"--content {file}: expected Parquet with columns {ITEM_ID} and {VECTOR} (a list of numbers), got "
            f"{str(error).splitlines()[0]}; make it with `ctr-rec content`, or write your own"
        ) from error
    kind = frame.schema[VECTOR]
    inner = pl.List(kind.inner).inner if isinstance(kind, (pl.List, pl.Array)) and kind.inner is not None else None
    ids = frame.schema[ITEM_ID]
    if not isinstance(inner, pl.DataType) or not inner.is_float() or not (ids.is_integer() or ids == pl.String):
        raise DataError(
            f"--content {file}: expected {ITEM_ID} an integer or a string and {VECTOR} a list of floats, got {ids} and "
            f"{kind}; cast them"
        )
    frame = frame.with_columns(pl.col(VECTOR).cast(pl.List(pl.Float32)))
    _refuse(frame, pl.col(ITEM_ID).is_null() | pl.col(ITEM_ID).is_duplicated(), file, "every item once")
    dim = int(frame[VECTOR].list.len().max() or 0)  # pyright: ignore[reportArgumentType]
    length = pl.col(VECTOR).list.len().fill_null(0)
    _refuse(frame, (length != dim) | (length == 0), file, f"{dim or 'some'} numbers in every vector")
    values = frame[VECTOR].explode().to_numpy().reshape(-1, dim)
    bad = pl.Series(~np.isfinite(values).all(axis=1))
    _refuse(frame, pl.lit(bad), file, "finite numbers")
    column = pl.Series(VECTOR, normalised(values), dtype=pl.Array(pl.Float32, dim)).cast(pl.List(pl.Float32))
    return frame.select(ITEM_ID).with_columns(column), dim


def normalised(vectors_ND: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Each row at length 1, rows of zeros as they are. [N, D]"""
    wide = vectors_ND.astype(np.float64)
    length = np.sqrt((wide * wide).sum(axis=1, keepdims=True))
    return (wide / np.where(length > 0, length, 1.0)).astype(np.float32)


def _refuse(frame: pl.DataFrame, bad: pl.Expr, file: Path, expected: str) -> None:
    found = frame.filter(bad)
    if frame.height and not found.height:
        return
    got = f"{found.height} other rows, the first of item {found[ITEM_ID][0]!r}" if found.height else "no row"
    raise DataError(f"--content {file}: expected {expected}, got {got}; mend the file, or leave such items out")


def _items(log: RawLog) -> pl.LazyFrame:
    return log.items if log.items is not None else log.events.select(ITEM_ID).unique(maintain_order=True)


def _coverage(keyed: pl.LazyFrame, vectors: pl.DataFrame, file: Path, log: RawLog) -> tuple[int, int]:
    """How many items have a vector, and how many there are."""
    try:
        ids = keyed.select("_key").collect(engine="streaming")
    except pl.exceptions.PolarsError as error:
        raise unreadable(error, "items", log.name()) from error
    covered = ids.join(vectors.select("_key"), on="_key", how="semi").height
    if covered == 0:
        first = ids["_key"][0] if ids.height else "none"
        raise DataError(
            f"--content {file}: none of its {vectors.height:,} items is in {log.name()} (its first is "
            f"{vectors['_key'][0]!r}, the log's {first!r}); is it the file of another log?"
        )
    return covered, ids.height


def _check_times(content: Content, info: ContentInfo | None, schema: LogSchema, split: Split) -> list[str]:
    """Doubts for the summary. Raises DataError where the vectors were learnt from times that are to be scored.

    A period (no validation range) is scored by the model of those before it, then trained on.
    """
    scored = split.train_start if split.valid_end is None and split.train_start is not None else split.train_end
    if info is None:
        return [
            f"nothing says what {content.file.name} was learnt from: if it has seen times after {scored}, metrics will "
            f"be too good; say so in {info_path(content.file).name} beside it"
        ]
    if info.trained_until is None or info.time_unit is None:
        return []
    until = info.trained_until * schema.ticks_per_second // TICKS_PER_SECOND[info.time_unit]
    if until <= scored:
        return []
    sentence = f"{content.file.name} was learnt from times up to {until}, but what comes after {scored} is scored"
    if not content.force:
        raise DataError(
            f"--content: {sentence}; learn it on the log's training range, choose a later split, or add --force"
        )
    return [f"{sentence}, and --force was given: metrics will be too good"]
