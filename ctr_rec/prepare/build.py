"""Raw log to prepared log: partition by user, arrange and count, then encode and write. The manifest is written last.

Memory is bounded by one partition (`partition_events`), the items and the distinct ids of the vocabularies.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from rich.console import Console

from ctr_rec.errors import DataError
from ctr_rec.prepare.arrange import arrange
from ctr_rec.prepare.check import check
from ctr_rec.prepare.content import Content, join_content
from ctr_rec.prepare.counting import ItemCounters, counter_columns
from ctr_rec.prepare.cut import kept_in_period
from ctr_rec.prepare.encode import by_user, event_columns, raw_ids, side_columns
from ctr_rec.prepare.fingerprint import Fingerprint, source_file
from ctr_rec.prepare.grow import OldLog, open_old
from ctr_rec.prepare.output import building, storage_errors
from ctr_rec.prepare.progress import Progress
from ctr_rec.prepare.raw import RawLog, canonical_events, canonical_side, check_names
from ctr_rec.prepare.recipe import DataRecipe, load_data_recipe, read_raw
from ctr_rec.prepare.scatter import scatter, sink
from ctr_rec.prepare.semantic_ids import write_centres
from ctr_rec.prepare.single_feature import single_feature_aucs, suspicious
from ctr_rec.prepare.statistics import Moments, Statistics
from ctr_rec.prepare.summary import print_summary
from ctr_rec.prepare.values import check_events, check_features, check_unique
from ctr_rec.prepare.vocabulary import COLUMNS, Rows, vocabulary_path
from ctr_rec.prepare.write import PartWriter, write_table
from ctr_rec.schema.log import LogSchema, Side, Split
from ctr_rec.schema.manifest import MANIFEST, SPLITS, LogManifest

ROW_GROUP_EVENTS = 131_072
PARTITION_EVENTS = 2_000_000
Aucs = dict[str, dict[str, float]]


class NoImpressionsError(DataError):
    """A range of the split has none: of a period, nothing to train on."""


@dataclass
class _Work:
    """What the passes hand on: temporary folder, schema, split, counted statistics, finished vocabularies."""

    folder: Path
    log: str
    schema: LogSchema
    split: Split
    progress: Progress
    parts: int
    statistics: Statistics
    old: OldLog | None
    context: int | None

    def events(self, part: int) -> Path:
        return self.folder / f"events-{part:05d}.parquet"

    def arranged(self, part: int) -> Path:
        return self.folder / f"arranged-{part:05d}.parquet"

    def users(self, part: int) -> Path:
        return self.folder / f"users-{part:05d}.parquet"


def prepare(
    recipe_dir: Path,
    raw: Path,
    out: Path,
    split: Split | str | None = None,
    row_group_events: int = ROW_GROUP_EVENTS,
    partition_events: int = PARTITION_EVENTS,
    overwrite: bool = False,
    progress: Progress | None = None,
    console: Console | None = None,
    grow: Path | None = None,
    content: Content | None = None,
) -> LogManifest:
    """Builds a prepared log in `out` from raw files, by a recipe of `data/`, checks it and prints a summary.

    recipe_dir: folder with schema.py and build.py. raw: what the recipe's `read` takes. split: itself, the name of
    one of the recipe's, or its ends as text; the recipe's default where None. row_group_events: events per row group
    at most (whole users). partition_events: events held in memory. console: where the summary goes, standard output.
    grow: a prepared log whose rows, scales and priors this one keeps; see prepare/grow.py. content: frozen vectors of
    items to be joined; see prepare/content.py.

    Raises:
        ConfigError: the recipe is none. SchemaError: schema and raw columns contradict each other.
        DataError: a raw value or file is not what the schema says, or `out` cannot be written.
    """
    recipe = load_data_recipe(recipe_dir)
    chosen = split if isinstance(split, Split) else recipe.split(split or "default")
    manifest, aucs = prepare_log(
        recipe,
        raw,
        out,
        chosen,
        row_group_events=row_group_events,
        partition_events=partition_events,
        overwrite=overwrite,
        progress=progress,
        grow=grow,
        content=content,
    )
    console = console or Console()
    print_summary(manifest, console, aucs)
    console.print(f"written and checked: {out}", highlight=False, soft_wrap=True)
    return manifest


def prepare_log(
    recipe: DataRecipe,
    raw: Path,
    out: Path,
    split: Split,
    *,
    row_group_events: int = ROW_GROUP_EVENTS,
    partition_events: int = PARTITION_EVENTS,
    overwrite: bool = False,
    progress: Progress | None = None,
    grow: Path | None = None,
    context: int | None = None,
    content: Content | None = None,
) -> tuple[LogManifest, Aucs]:
    """`prepare` for a recipe that is already loaded, without the summary; also returns single-feature AUCs by label.

    context: keep of the history before the training range only that many events of a user, and of users without an
    event in the range nothing (see prepare/cut.py). What is counted is counted on the whole history all the same.
    """
    schema, log = recipe.schema, read_raw(recipe, raw, split)
    joined = None if content is None else join_content(content, log, schema, split, grow)
    if joined is not None:
        schema, log = joined.schema, joined.log
    check_names(schema)
    old = None if grow is None else open_old(grow, schema)
    with building(out, overwrite) as temporary:
        statistics = Statistics(schema, old.priors() if old is not None else None)
        passes = temporary / "passes"
        work = _Work(passes, log.name(), schema, split, progress or Progress(), 1, statistics, old, context)
        with storage_errors(out):
            work.folder.mkdir()
            _partition(work, log, partition_events)
            users = _arrange_and_count(work)
            manifest = _encode_and_write(work, log, temporary, row_group_events, users)
            shutil.rmtree(work.folder)
            for path in log.beside:
                shutil.copyfile(path, temporary / path.name)
            if joined is not None and joined.centres:
                write_centres(temporary, joined.centres)
            _write_manifest(temporary, manifest)
            with work.progress.stage("check", 1) as advance:
                check(temporary)
                aucs = {label: single_feature_aucs(temporary, manifest, label) for label in schema.labels}
                advance(1)
            notes = [note for label, values in aucs.items() for note in suspicious(values, label)]
            notes += old.notes(split) if old is not None else []
            told = {} if joined is None else {"content": joined.source}
            notes += [] if joined is None else joined.notes
            manifest = manifest.model_copy(update={"notes": tuple(notes), **told})
            _write_manifest(temporary, manifest)
    return manifest, aucs


def _write_manifest(folder: Path, manifest: LogManifest) -> None:
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _partition(work: _Work, log: RawLog, partition_events: int) -> None:
    whole = work.folder / "all.parquet"
    events = canonical_events(log, work.schema)
    users = canonical_side(log.users, work.schema, Side.USER, log)
    with work.progress.stage("read", 1) as advance:
        rows = sink(events, whole, "events", work.log)
        advance(1)
    if rows == 0:
        raise DataError(f"events of {work.log}: expected at least one event, got an empty file; is it the right one?")
    work.parts = math.ceil(rows / partition_events)
    scatter(whole, "user_id", [work.events(p) for p in range(work.parts)], work.progress)
    if users is not None:
        if sink(users, whole, "users", work.log) == 0:
            raise DataError(f"users of {work.log}: expected at least one user, got none; is it the right file?")
        scatter(whole, "user_id", [work.users(p) for p in range(work.parts)], work.progress)
    items = canonical_side(log.items, work.schema, Side.ITEM, log)
    if items is not None:
        sink(items, work.folder / "items.parquet", "items", work.log)


def _arrange_and_count(work: _Work) -> bool:
    """Orders and counts each partition; returns whether there are user features."""
    has_users = bool(work.schema.of(Side.USER))
    with work.progress.stage("order and count", work.parts) as advance:
        for part in range(work.parts):
            events = pl.read_parquet(work.events(part))
            check_events(events, work.schema, work.log)
            events = arrange(events, work.split)
            events = events.with_columns(work.split.number(pl.col("request_time")).cast(pl.Int8).alias("split"))
            work.statistics.add_events(events)
            if has_users:
                _count_users(work, part, events)
            events.write_parquet(work.arranged(part), compression="lz4")
            work.events(part).unlink()
            advance(1)
    _check_splits(work)
    return has_users


def _count_users(work: _Work, part: int, events: pl.DataFrame) -> None:
    """Joins the profiles to the partition's users, in their order, and counts them by training events."""
    users = pl.read_parquet(work.users(part))
    check_unique(users, "user_id", f"users of {work.log}")
    present = events.group_by("user_id", maintain_order=True).agg((pl.col("split") <= 0).sum().alias("_train"))
    users = _attributes(present, users, "user_id", work, Side.USER)
    work.statistics.add_side(users, Side.USER, users["_train"])
    users.write_parquet(work.users(part), compression="lz4")


def _attributes(present: pl.DataFrame, frame: pl.DataFrame, key: str, work: _Work, side: Side) -> pl.DataFrame:
    """`present` with the attributes of `frame`, checked. Raises DataError where an id has none."""
    absent = present.join(frame, on=key, how="anti", maintain_order="left")
    if absent.height:
        raise DataError(
            f"{side.value}s of {work.log}: {absent.height} {key}s of the events have no row, the first is "
            f"{absent[key][0]!r}; expected one row per {key}: add rows or drop these events in build.py"
        )
    joined = present.join(frame, on=key, how="left", maintain_order="left")
    check_features(joined, work.schema.of(side), f"{side.value}s of {work.log}")
    return joined


def _check_splits(work: _Work) -> None:
    counts = work.statistics.impressions
    ends = work.split
    needed = SPLITS if ends.valid_end is not None else SPLITS[:1]
    empty = [name for name, count in zip(needed, counts, strict=False) if count == 0]
    if empty:
        start = "" if ends.train_start is None else f"{ends.train_start} < "
        raise NoImpressionsError(
            f"{work.log}: the split leaves {', '.join(empty)} without impressions "
            f"({start}train <= {ends.train_end}"
            f"{'' if ends.valid_end is None else f' < valid <= {ends.valid_end} < test'}"
            f"{'' if ends.test_end is None else f' <= {ends.test_end}'}: {' / '.join(map(str, counts))}); the log's "
            f"request times run from {work.statistics.first_time} to {work.statistics.last_time}: "
            "choose other ends in schema.py"
        )


def _encode_and_write(work: _Work, log: RawLog, out: Path, row_group_events: int, has_users: bool) -> LogManifest:
    schema, statistics = work.schema, work.statistics
    items = statistics.items()
    if schema.of(Side.ITEM):
        attributes = pl.read_parquet(work.folder / "items.parquet")
        check_unique(attributes, "item_id", f"items of {work.log}")
        items = _attributes(items, attributes, "item_id", work, Side.ITEM)
        statistics.add_side(items, Side.ITEM, items["count"])
    old, grown_from = work.old, work.old.chain() if work.old is not None else ()
    kept = {v.table: old.rows(v.table) if old is not None else None for v in schema.vocabularies}
    rows = {v.table: Rows(v, statistics.counts[v.table].frame(), kept[v.table]) for v in schema.vocabularies}
    numbered = items.select("item_id").with_columns(pl.int_range(pl.len(), dtype=pl.Int32).alias("item"))
    counters = ItemCounters(work.folder, schema, [work.arranged(p) for p in range(work.parts)], numbered, statistics)
    writer = PartWriter(out, schema, work.split, row_group_events)
    fingerprint = Fingerprint(schema, work.split, grown_from)
    moments = {f"{c.name}_{part}": Moments() for c in schema.counters for part in ("count", "rate")}
    with work.progress.stage("encode and write", work.parts) as advance:
        for part in range(work.parts):
            events = pl.read_parquet(work.arranged(part))
            events = events.join(numbered, on="item_id", how="left", maintain_order="left")
            offsets = _offsets(events)
            counted = counter_columns(events, offsets, schema, statistics, counters.of(part), moments)
            events = events.with_columns(pl.col("request") + statistics.first_request[part])
            if work.context is not None:
                kept = kept_in_period(events, work.split, work.context, schema.action_delay)
                events, counted = events.filter(kept), {n: values[kept.to_numpy()] for n, values in counted.items()}
                offsets = _offsets(events)
            users = events.select("user_id").unique(maintain_order=True)
            if has_users:
                users = users.join(pl.read_parquet(work.users(part)), on="user_id", how="left", maintain_order="left")
            table = by_user(event_columns(events, schema, rows, counted), offsets, writer.users)
            profile = {"user": table.column("user"), "user_id": raw_ids(users["user_id"])}
            profile |= side_columns(users, schema, Side.USER, rows)
            writer.write(part, table, pa.table(profile), offsets, fingerprint)
            work.arranged(part).unlink()
            advance(1)
    item_columns: dict[str, pa.Array] = {
        "item_id": raw_ids(items["item_id"]),
        "first_time": pa.array(items["first_time"].to_numpy(), pa.int64()),
        **side_columns(items, schema, Side.ITEM, rows),
    }
    _write_small(out, pa.table(item_columns), rows, fingerprint)
    numbers = {name: m.info() for name, m in {**statistics.moments, **moments}.items()}
    if old is not None:
        numbers |= {name: info for name, info in old.manifest.numbers.items() if name in numbers}
    return LogManifest(
        fingerprint=fingerprint.value(),
        data_schema=schema,
        split=work.split,
        tables={table: r.info for table, r in rows.items()},
        numbers=numbers,
        row_groups=tuple(writer.row_groups),
        users=writer.users,
        items=items.height,
        events=writer.events,
        impressions=writer.impressions(),
        positives={name: (p[0], p[1], p[2]) for name, p in writer.positives.items()},
        time_range=(statistics.first_time, statistics.last_time),
        priors={label: statistics.prior(label) for label in schema.labels},
        grown_from=grown_from,
        context=work.context,
        sources=tuple(source_file(p) for p in log.sources),
    )


def _offsets(events: pl.DataFrame) -> npt.NDArray[np.int64]:
    """Where each user's events begin, and their end: [U + 1]. events: sorted by user."""
    row = events.select(pl.col("user_id").rle_id()).to_series().to_numpy()
    return np.concatenate([[0], np.cumsum(np.bincount(row))]).astype(np.int64)


def _write_small(out: Path, items: pa.Table, rows: dict[str, Rows], fingerprint: Fingerprint) -> None:
    write_table(out / "items" / "items.parquet", items)
    fingerprint.add("items", items)
    for name in sorted(rows):
        table = rows[name].table()
        write_table(vocabulary_path(out, name), table)
        fingerprint.add(f"vocabulary/{name}", table.select([*COLUMNS]))
