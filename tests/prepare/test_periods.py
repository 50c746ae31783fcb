"""Periods of a raw log: the same rows as preparing each with --grow by hand, cut to what they need."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from ctr_rec.errors import ConfigError, DataError
from ctr_rec.prepare.check import check
from ctr_rec.prepare.periods import Grid, prepare_periods_of
from ctr_rec.prepare.progress import Progress
from ctr_rec.prepare.raw import RawLog
from ctr_rec.prepare.vocabulary import vocabulary_path
from ctr_rec.schema.log import LogSchema, Split
from ctr_rec.schema.manifest import load_manifest
from ctr_rec.schema.periods import PERIODS, Periods, load_periods
from tests.prepare.raws import SCHEMA, build, random_raw, recipe_of

HOUR = 3_600
# Ids and requests that cross the ends of periods: a second of the small log is a minute here.
HOURLY: LogSchema = SCHEMA.model_copy(update={"action_delay": 60 * SCHEMA.action_delay})
GRID = Grid("6h")
CONTEXT = 5


def hourly_raw(events: int = 900) -> RawLog:
    """Over 16 hours, in order of time, as a log grows."""
    raw = random_raw(events=events)
    ordered = raw.events.with_columns(pl.col("time") * 60).sort("time", maintain_order=True)
    return RawLog(events=ordered, users=raw.users, items=raw.items)


def cut(raw: RawLog, out: Path, grid: Grid = GRID, context: int = CONTEXT, schema: LogSchema = HOURLY) -> Periods:
    quiet = Console(file=io.StringIO())
    return prepare_periods_of(recipe_of(raw, schema), out.parent, out, grid, context, quiet, Progress(quiet=True))


@pytest.fixture(scope="module")
def periods(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs") / "periods"
    cut(hourly_raw(), folder)
    return folder


def test_every_complete_period_is_there_and_whole(periods: Path) -> None:
    known = load_periods(periods)
    assert (known.context, known.start, known.every, known.ticks_per_second) == (CONTEXT, 0, 6 * HOUR, 1)
    assert [p.name for p in known.periods] == ["1970-01-01T0000", "1970-01-01T0600"], "the log ends at 16:40"
    assert [(p.after, p.to) for p in known.periods] == [(-1, 6 * HOUR - 1), (6 * HOUR - 1, 12 * HOUR - 1)]
    for period in known.periods:
        manifest = check(periods / period.name)
        assert manifest.context == CONTEXT
        assert (manifest.split.train_start, manifest.split.train_end) == (period.after, period.to)
        assert manifest.split.valid_end is None
        assert manifest.impressions == (period.impressions, 0, 0)
        assert (manifest.fingerprint, manifest.events) == (period.fingerprint, period.events)
        assert not manifest.notes
    first, second = (load_manifest(periods / p.name) for p in known.periods)
    assert second.grown_from == (first.fingerprint,)


def test_a_period_is_the_log_prepared_by_hand_without_what_it_does_not_need(periods: Path, tmp_path: Path) -> None:
    first, second = load_periods(periods).periods
    split = Split(train_start=second.after, train_end=second.to)
    whole = build(hourly_raw(), tmp_path / "whole", HOURLY, split, grow=periods / first.name)
    stored = load_manifest(periods / second.name)
    assert stored.impressions == whole.impressions
    assert stored.positives == whole.positives
    assert (stored.tables, stored.numbers, stored.priors) == (whole.tables, whole.numbers, whole.priors)
    assert stored.events < whole.events
    for table in stored.tables:
        assert pq.read_table(vocabulary_path(periods / second.name, table)) == pq.read_table(
            vocabulary_path(tmp_path / "whole", table)
        )
    ours, theirs = flat(periods / second.name), flat(tmp_path / "whole")
    kept = theirs.join(ours, on=theirs.columns, how="semi", nulls_equal=True)
    assert kept.height == ours.height, "every stored event is as the whole log has it, counters included"
    fresh = pl.col("request_time") > second.after
    assert ours.filter(fresh).height == theirs.filter(fresh).height
    before = ours.filter(~fresh & (pl.col("time") + HOURLY.action_delay < second.after)).group_by("user_id").len()
    assert before["len"].max() == CONTEXT


def flat(log: Path) -> pl.DataFrame:
    """Events by raw user, a row each; user numbers and lists inside events left out."""
    events = pl.from_arrow(pq.read_table(log / "events" / "part-00000.parquet"))
    users = pl.from_arrow(pq.read_table(log / "users" / "part-00000.parquet"))
    assert isinstance(events, pl.DataFrame)
    assert isinstance(users, pl.DataFrame)
    names = [n for n in events.columns if n not in ("user", "words")]
    return users.select("user", "user_id").join(events, on="user").select("user_id", *names).explode(names)


def test_ids_are_counted_up_to_the_period_only(tmp_path: Path) -> None:
    late = hourly_raw().events.with_columns(
        page=pl.when(pl.col("time") >= 6 * HOUR).then(pl.lit("late")).otherwise("page")
    )
    raw = hourly_raw()
    cut(RawLog(late, raw.users, raw.items), tmp_path / "out")
    pages = [
        pq.read_table(vocabulary_path(tmp_path / "out" / p.name, "page"))
        for p in load_periods(tmp_path / "out").periods
    ]
    assert "late" not in pages[0]["id"].to_pylist()
    assert "late" in pages[1]["id"].to_pylist()


def test_more_of_the_log_adds_periods_and_leaves_the_others(periods: Path, tmp_path: Path) -> None:
    """Followed as it comes in, a log is cut into the same periods as all at once."""
    raw = hourly_raw()
    early = RawLog(raw.events.filter(pl.col("time") <= 11 * HOUR), raw.users, raw.items)
    assert len(cut(early, tmp_path / "out").periods) == 1
    stamp = (tmp_path / "out" / "1970-01-01T0000" / "manifest.json").stat().st_mtime_ns
    assert cut(raw, tmp_path / "out") == load_periods(periods)
    assert (tmp_path / "out" / "1970-01-01T0000" / "manifest.json").stat().st_mtime_ns == stamp
    assert cut(raw, tmp_path / "out") == load_periods(periods)


def test_an_unfinished_period_is_prepared_again(periods: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(periods, tmp_path / "out"))
    fields = json.loads((out / PERIODS).read_text())
    (out / PERIODS).write_text(json.dumps({**fields, "periods": fields["periods"][:1]}))
    assert cut(hourly_raw(), out) == load_periods(periods)


def test_start_and_end_choose_the_periods(tmp_path: Path) -> None:
    grid = Grid("4h", start="1970-01-01T03:00", end="1970-01-01T17:00")
    known = cut(hourly_raw(), tmp_path / "out", grid)
    assert [p.name for p in known.periods] == ["1970-01-01T0300", "1970-01-01T0700", "1970-01-01T1100"]
    assert load_manifest(tmp_path / "out" / "1970-01-01T0300").events > known.periods[0].impressions


def test_a_period_without_impressions_is_none_and_the_next_follows_the_one_before(tmp_path: Path) -> None:
    raw = hourly_raw()
    gap = raw.events.with_columns(
        impression=pl.col("impression") & ~pl.col("time").is_between(4 * HOUR - 2400, 6 * HOUR)
    )
    known = cut(RawLog(gap, raw.users, raw.items), tmp_path / "out", Grid("2h", end="1970-01-01T08:00"))
    assert [p.name[-4:] for p in known.periods] == ["0000", "0200", "0600"]
    assert known.periods[2].after == known.periods[1].to
    assert not load_manifest(tmp_path / "out" / known.periods[2].name).notes


@pytest.mark.parametrize(
    ("grid", "context", "words"),
    [
        (Grid("week"), 5, r"--every: expected a number of days or hours such as 1d, 7d or 6h, got 'week'"),
        (Grid("6h", start="May"), 5, r"--start: expected a date such as 2000-05-01 .* got 'May'"),
        (Grid("6h", end="May"), 5, r"--end: expected a date"),
        (Grid("6h"), 0, r"--context: expected how many events .* at least 1, got 0"),
    ],
)
def test_what_cannot_be_cut_is_refused(tmp_path: Path, grid: Grid, context: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        cut(hourly_raw(), tmp_path / "out", grid, context)


def test_a_log_without_a_complete_period_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no period of 30d from 1970-01-01 on has impressions and is complete"):
        cut(hourly_raw(), tmp_path / "out", Grid("30d"))


def test_periods_that_were_cut_otherwise_are_not_gone_on_with(periods: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(periods, tmp_path / "out"))
    with pytest.raises(ConfigError, match=r"were cut otherwise: context was 5, is 6; every was 21600, is 3600; cut"):
        cut(hourly_raw(), out, Grid("1h"), 6)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(DataError, match="is not empty and holds no periods"):
        cut(hourly_raw(), tmp_path / "other")
