"""Joins a file of frozen item vectors to a raw log, as one more item feature: `content`.

Vectors get length 1; an item that the file has no vector for gets zeros, which no vector of length 1 is.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from ctr_rec.errors import ConfigError, DataError, SchemaError
from ctr_rec.prepare.fingerprint import source_file
from ctr_rec.prepare.raw import RawLog, canonical_events, columns_of, unreadable
from ctr_rec.prepare.semantic_ids import NONE, Float64, SemanticIds, assign, fit, read_centres
from ctr_rec.prepare.vectors import read_vectors
from ctr_rec.schema.content import CONTENT, ITEM_ID, VECTOR, ContentInfo, info_path, load_info
from ctr_rec.schema.log import TICKS_PER_SECOND, Feature, Kind, LogSchema, Side, Split
from ctr_rec.schema.manifest import ContentSource, SourceFile, load_manifest

KEY = "_key"  # an item id as text, or as integer where both sides have integers


@dataclass(frozen=True)
class Content:
    """What `prepare` is asked to join. force: also vectors that were learnt from the validation or test range.

    semantic_ids: codes of the vectors besides, as categories of the item.
    """

    file: Path
    force: bool = False
    semantic_ids: SemanticIds | None = None


def wanted_content(file: Path | None, semantic_ids: str | None, force: bool) -> Content | None:
    """What the options of `prepare` ask for. Raises ConfigError where one would do nothing."""
    useless = [n for n, given in (("--semantic-ids", semantic_ids), ("--force", force)) if given]
    if file is None and useless:
        raise ConfigError(f"prepare: {' and '.join(useless)} without --content FILE would do nothing; add it")
    if file is None:
        return None
    return Content(file, force, None if semantic_ids is None else SemanticIds.parse(semantic_ids))


@dataclass(frozen=True)
class Joined:
    """Raw log and schema with the new features, what the manifest says of them, and what is odd about them.

    centres: of semantic ids, by level.
    """

    log: RawLog
    schema: LogSchema
    source: ContentSource
    notes: tuple[str, ...]
    centres: tuple[Float64, ...] = ()


def join_content(content: Content, log: RawLog, schema: LogSchema, split: Split, grow: Path | None = None) -> Joined:
    """The raw log with a vector per item, and its codes where they are asked for.

    grow: the prepared log that this one grows from: its centres are taken, and its vectors' space must be the same.

    Raises:
        DataError: the file is no file of vectors, shares no item with the log, was learnt from times that the split
        scores, or is of another space than the old log's. SchemaError: the schema has a feature of that name.
        ConfigError: the JSON beside the file is another, or there are fewer items than centres.
    """
    wanted = content.semantic_ids
    _check_names(schema, wanted)
    info = load_info(content.file)
    notes = _check_times(content, info, schema, split)
    source = source_file(content.file)
    if grow is not None:
        _check_space(grow, source, info)
    file, dim = read_vectors(content.file)
    items = _items(log)
    kind = columns_of(items, "items", log.name())[ITEM_ID]
    key = pl.col(ITEM_ID).cast(pl.Int64 if kind.is_integer() and file.schema[ITEM_ID].is_integer() else pl.String)
    vectors = file.select(key.alias(KEY), pl.col(VECTOR).alias(CONTENT))
    keyed = items.with_columns(key.alias(KEY))
    covered, of = _coverage(keyed, vectors, content.file, log)
    if covered < of:
        notes.append(f"{content.file.name} has no vector for {of - covered:,} of {of:,} items; theirs are zeros")
    centres: tuple[Float64, ...] = ()
    if wanted is not None:
        seen = None if grow is not None else _seen_in_training(log, schema, split, key)
        centres = tuple(fit(_matrix(vectors, seen), wanted) if grow is None else read_centres(grow, wanted, dim))
        matrix = _matrix(vectors)
        vectors = vectors.with_columns(wanted.columns(assign(matrix, centres), np.asarray(matrix.any(axis=1))))
    joined = keyed.join(vectors.lazy(), on=KEY, how="left", maintain_order="left").drop(KEY)
    if wanted is not None:
        joined = joined.with_columns(pl.col(wanted.names()).fill_null(NONE))
    return Joined(
        log=dataclasses.replace(log, items=joined),
        schema=_with_features(schema, dim, wanted),
        source=ContentSource(file=source, info=info, covered=covered, items=of),
        notes=tuple(notes),
        centres=centres,
    )


def _check_names(schema: LogSchema, wanted: SemanticIds | None) -> None:
    taken = {f.name for f in schema.features} | {v.table for v in schema.vocabularies}
    double = sorted(taken & {CONTENT, *(wanted.names() if wanted else ())})
    if double:
        raise SchemaError(
            f"schema {schema.name!r} has {', '.join(map(repr, double))} of its own, a name that --content needs; "
            "rename it in schema.py and build.py, or prepare without --content"
        )


def _with_features(schema: LogSchema, dim: int, wanted: SemanticIds | None) -> LogSchema:
    vector = Feature(name=CONTENT, kind=Kind.VECTOR, side=Side.ITEM, dim=dim)
    new = {
        "features": (*schema.features, vector, *(wanted.features() if wanted else ())),
        "vocabularies": (*schema.vocabularies, *(wanted.vocabularies() if wanted else ())),
    }
    return schema.model_copy(update=new)


def _check_space(grow: Path, source: SourceFile, info: ContentInfo | None) -> None:
    """A model that goes on must find the vectors it knows. Raises DataError where they may be others."""
    old = load_manifest(grow).content
    if old is None or old.file.sha256 == source.sha256:
        return  # where the old log has none, its schema says so
    before, now = (i.model if i is not None else None for i in (old.info, info))
    if before is None or before != now:
        raise DataError(
            f"--content: {grow} has vectors of {old.file.name}, made by {before or 'nobody says what'}; {source.name} "
            f"is made by {now or 'nobody says what'}, so its vectors may mean something else: give the same file, or "
            "one of the same model, or prepare without --grow and start a new run"
        )


def _seen_in_training(log: RawLog, schema: LogSchema, split: Split, key: pl.Expr) -> pl.DataFrame:
    """Keys of the items that have an event up to the end of the training range."""
    events = canonical_events(log, schema).filter(pl.col("time") <= split.train_end)
    try:
        return events.select(key.alias(KEY)).unique().collect(engine="streaming")
    except pl.exceptions.PolarsError as error:
        raise unreadable(error, "events", log.name()) from error


def _matrix(vectors: pl.DataFrame, only: pl.DataFrame | None = None) -> npt.NDArray[np.float32]:
    """All vectors, or those of some items that are not zeros, [N, D], in the file's order."""
    chosen = vectors if only is None else vectors.join(only, on=KEY, how="semi", maintain_order="left")
    matrix = chosen[CONTENT].explode().to_numpy().reshape(chosen.height, -1)
    return matrix if only is None else matrix[matrix.any(axis=1)]


def _items(log: RawLog) -> pl.LazyFrame:
    """The recipe's items, or where it has none every item of the events."""
    return log.items if log.items is not None else log.events.select(ITEM_ID).unique(maintain_order=True)


def _coverage(keyed: pl.LazyFrame, vectors: pl.DataFrame, file: Path, log: RawLog) -> tuple[int, int]:
    """How many items have a vector, and how many there are."""
    try:
        ids = keyed.select(KEY).collect(engine="streaming")
    except pl.exceptions.PolarsError as error:
        raise unreadable(error, "items", log.name()) from error
    covered = ids.join(vectors.select(KEY), on=KEY, how="semi").height
    if covered == 0:
        first = ids[KEY][0] if ids.height else "none"
        raise DataError(
            f"--content {file}: none of its {vectors.height:,} items is in {log.name()} (its first is "
            f"{vectors[KEY][0]!r}, the log's {first!r}); is it the file of another log?"
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
    until = -(-info.trained_until * schema.ticks_per_second // TICKS_PER_SECOND[info.time_unit])  # rounded up
    if until <= scored:
        return []
    sentence = f"{content.file.name} was learnt from times up to {until}, but what comes after {scored} is scored"
    if not content.force:
        raise DataError(
            f"--content: {sentence}; learn it on the log's training range, choose a later split, or add --force"
        )
    return [f"{sentence}, and --force was given: metrics will be too good"]
