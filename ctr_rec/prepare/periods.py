"""A raw log to one prepared log per period, each grown from the one before: what `train --follow-days` reads.

Every period is prepared like any other log that grows (prepare/grow.py): from the raw log as far as the period's end,
so that vocabularies, counters and scales know what came before and nothing of what comes after. Of the history only
the tail that its impressions need is stored. Memory is one partition's, as ever; the time of a period is that of
reading the raw log.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

import polars as pl
from rich.console import Console

from ctr_rec.errors import ConfigError, DataError
from ctr_rec.files import write_json
from ctr_rec.prepare.build import NoImpressionsError, prepare_log
from ctr_rec.prepare.content import Content
from ctr_rec.prepare.progress import Progress
from ctr_rec.prepare.raw import RawLog, canonical_events, check_names, unreadable
from ctr_rec.prepare.recipe import DataRecipe, load_data_recipe, read_raw
from ctr_rec.schema.log import LogSchema, Split
from ctr_rec.schema.manifest import LogManifest
from ctr_rec.schema.periods import PERIODS, Period, Periods, load_periods

SECONDS = {"h": 3_600, "d": 86_400}


@dataclass(frozen=True)
class Grid:
    """Which periods are wanted. every: "1d", "7d", "6h". start, end: dates (2000-05-01, 2000-05-01T16:00), UTC.

    start: of the first period, None for midnight before the first impression; what lies before it is history only.
    end: what the log is complete to; None takes periods as far as the log goes beyond their end.
    """

    every: str
    start: str | None = None
    end: str | None = None


def prepare_periods(
    recipe_dir: Path,
    raw: Path,
    out: Path,
    grid: Grid,
    context: int,
    content: Content | None = None,
    console: Console | None = None,
) -> Periods:
    """Cuts a raw log into periods below `out`, by a recipe of `data/`; prints a line for each.

    Where `out` holds periods already, the ones behind the last are added: so a log is followed as it comes in, and a
    call that was stopped goes on. context: events of a user that a period's log keeps from before it, at most. content:
    frozen vectors of items for every period, learnt from nothing that lies in the first or later.

    Raises:
        ConfigError: the recipe is none, a date or `every` cannot be read, or `out` was cut otherwise. SchemaError,
        DataError: as `prepare`; or no period is complete.
    """
    recipe = load_data_recipe(recipe_dir)
    return prepare_periods_of(recipe, raw, out, grid, context, console or Console(), content=content)


def prepare_periods_of(
    recipe: DataRecipe,
    raw: Path,
    out: Path,
    grid: Grid,
    context: int,
    console: Console,
    progress: Progress | None = None,
    content: Content | None = None,
) -> Periods:
    """`prepare_periods` for a recipe that is already loaded."""
    check_names(recipe.schema)
    if context < 1:
        raise ConfigError(f"--context: expected how many events before a period are kept, at least 1, got {context}")
    log = read_raw(recipe, raw, recipe.split())
    wanted = _empty(grid, context, log, recipe.schema)
    if (out / PERIODS).is_file():
        wanted = _same_cut(load_periods(out), wanted, out, given=grid.start is not None)
    elif out.exists() and any(out.iterdir()):
        raise DataError(f"{out} is not empty and holds no periods; choose another folder, or remove it")
    ends = list(_complete(wanted, log, recipe.schema, grid.end))
    for number in ends:
        wanted = _one_more(recipe, raw, out, wanted, number, console, progress or Progress(quiet=True), content)
        write_json(out / PERIODS, wanted.model_dump(mode="json"))
    if not wanted.periods:
        raise DataError(
            f"{log.name()}: no period of {grid.every} from {_date(wanted.start, wanted)} on has impressions and is "
            "complete, that is, the log goes beyond its end; name another --start, a shorter --every, or the --end "
            "that the log is complete to"
        )
    console.print(f"{len(ends)} periods read, {len(wanted.periods)} in {out}", highlight=False, soft_wrap=True)
    return wanted


def _one_more(
    recipe: DataRecipe,
    raw: Path,
    out: Path,
    known: Periods,
    number: int,
    console: Console,
    progress: Progress,
    content: Content | None,
) -> Periods:
    """Prepares period `number` of the grid, from the end of the one before; the same list where nothing is in it."""
    old = known.periods[-1] if known.periods else None
    begins = known.start + number * known.every
    split = Split(train_start=old.to if old else known.start - 1, train_end=begins + known.every - 1)
    name = _date(begins, known)
    try:
        manifest, _ = prepare_log(
            recipe,
            raw,
            out / name,
            split,
            grow=out / old.name if old else None,
            context=known.context,
            overwrite=True,  # what is not in the list was not finished
            progress=progress,
            content=content,
        )
    except NoImpressionsError:
        return known
    period = _period(name, split, manifest)
    rows = ", ".join(f"{table} {info.rows:,}" for table, info in manifest.tables.items())
    console.print(
        f"{name}: {period.impressions:,} impressions, {period.events:,} events stored, rows: {rows}",
        highlight=False,
        soft_wrap=True,
    )
    return known.model_copy(update={"periods": (*known.periods, period)})


def _period(name: str, split: Split, manifest: LogManifest) -> Period:
    assert split.train_start is not None
    return Period(
        name=name,
        after=split.train_start,
        to=split.train_end,
        fingerprint=manifest.fingerprint,
        impressions=manifest.impressions[0],
        events=manifest.events,
    )


def _empty(grid: Grid, context: int, log: RawLog, schema: LogSchema) -> Periods:
    """The grid without a period yet."""
    ticks = schema.ticks_per_second
    found = re.fullmatch(r"([1-9]\d*)([hd])", grid.every)
    if found is None:
        raise ConfigError(f"--every: expected a number of days or hours such as 1d, 7d or 6h, got {grid.every!r}")
    if grid.start is None:
        first = _range(log, schema, pl.col("impression"))[0]
        start = first - first % (SECONDS["d"] * ticks)
    else:
        start = _ticks("--start", grid.start, ticks)
    every = int(found[1]) * SECONDS[found[2]] * ticks
    return Periods(context=context, start=start, every=every, ticks_per_second=ticks, periods=())


def _same_cut(stored: Periods, wanted: Periods, out: Path, given: bool) -> Periods:
    """The stored periods, to be gone on with. given: whether the start was, or is the log's."""
    names = ("context", "every", *(["start"] if given else []))
    changed = [f"{n} was {getattr(stored, n)}, is {getattr(wanted, n)}" for n in names if _differ(stored, wanted, n)]
    if changed:
        raise ConfigError(
            f"{out} holds periods that were cut otherwise: {'; '.join(changed)}; cut them alike, or choose another "
            "--out"
        )
    return stored


def _differ(a: Periods, b: Periods, name: str) -> bool:
    return getattr(a, name) != getattr(b, name)


def _complete(known: Periods, log: RawLog, schema: LogSchema, end: str | None) -> Iterator[int]:
    """Numbers of periods that hold an event, are complete, and lie behind the last one that is there."""
    done = known.periods[-1].to if known.periods else known.start - 1
    limit = _range(log, schema, pl.lit(value=True))[1] if end is None else _ticks("--end", end, known.ticks_per_second)
    number = (pl.col("time") - known.start) // known.every
    counts = canonical_events(log, schema).select(number=number).unique()
    for n in sorted(_collect(counts, log)["number"].to_list()):
        if n >= 0 and known.start + n * known.every > done and known.start + (n + 1) * known.every <= limit:
            yield n


def _range(log: RawLog, schema: LogSchema, which: pl.Expr) -> tuple[int, int]:
    """First and last time of some events."""
    time = canonical_events(log, schema).filter(which).select(first=pl.col("time").min(), last=pl.col("time").max())
    first, last = _collect(time, log).row(0)
    if first is None:
        raise DataError(f"events of {log.name()}: expected impressions, got none; is it the right file?")
    return first, last


def _collect(frame: pl.LazyFrame, log: RawLog) -> pl.DataFrame:
    try:
        return frame.collect(engine="streaming")
    except pl.exceptions.PolarsError as error:
        raise unreadable(error, "events", log.name()) from error


def _ticks(option: str, text: str, ticks_per_second: int) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"{option}: expected a date such as 2000-05-01 or 2000-05-01T16:00, got {text!r}") from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    return round((moment - datetime(1970, 1, 1, tzinfo=timezone.utc)).total_seconds()) * ticks_per_second


def _date(time: int, grid: Periods) -> str:
    """The date on which a period begins, with the hour where periods do not begin at midnight."""
    moment = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=time / grid.ticks_per_second)
    day = SECONDS["d"] * grid.ticks_per_second
    whole = grid.start % day == 0 and grid.every % day == 0
    return f"{moment:%Y-%m-%d}" if whole else f"{moment:%Y-%m-%dT%H%M}"
